CREATE TABLE meta (
    name TEXT PRIMARY KEY,
    value TEXT NOT NULL
) WITHOUT ROWID;

CREATE TABLE provider_states (
    provider TEXT PRIMARY KEY,
    status TEXT NOT NULL DEFAULT 'healthy',
    cooldownUntil INTEGER,
    statusReason TEXT NOT NULL DEFAULT '',
    step INTEGER NOT NULL DEFAULT 0,
    generation INTEGER NOT NULL DEFAULT 0,
    updatedAt INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;

CREATE TABLE client_keys (
    _id TEXT PRIMARY KEY,
    keyHash TEXT NOT NULL UNIQUE,
    shown TEXT NOT NULL,
    label TEXT NOT NULL DEFAULT '',
    models TEXT NOT NULL DEFAULT '[]',
    createdAt INTEGER NOT NULL,
    revokedAt INTEGER
) WITHOUT ROWID;

CREATE TABLE exchanges (
    _id TEXT NOT NULL UNIQUE,
    at INTEGER NOT NULL,
    caller TEXT NOT NULL,
    format TEXT NOT NULL,
    operation TEXT NOT NULL,
    asked TEXT NOT NULL,
    model TEXT NOT NULL,
    stream INTEGER NOT NULL,
    outcome TEXT NOT NULL,
    fault TEXT NOT NULL,
    status INTEGER NOT NULL,
    provider TEXT NOT NULL,
    key TEXT NOT NULL,
    attempts TEXT NOT NULL,
    inputTokens INTEGER NOT NULL,
    outputTokens INTEGER NOT NULL,
    cacheReadTokens INTEGER NOT NULL,
    cacheWrite5mTokens INTEGER NOT NULL,
    cacheWrite1hTokens INTEGER NOT NULL,
    reasoningTokens INTEGER NOT NULL,
    quality TEXT NOT NULL,
    costMicros INTEGER,
    boundMicros INTEGER,
    firstMs INTEGER NOT NULL,
    tookMs INTEGER NOT NULL,
    upstreamId TEXT NOT NULL
);

CREATE TABLE audit (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    _id TEXT NOT NULL UNIQUE,
    at INTEGER NOT NULL,
    actor TEXT NOT NULL,
    action TEXT NOT NULL,
    provider TEXT NOT NULL,
    subject TEXT NOT NULL,
    before TEXT NOT NULL,
    after TEXT NOT NULL,
    reason TEXT NOT NULL
);

CREATE TABLE claims (
    scope TEXT PRIMARY KEY,
    owner TEXT NOT NULL,
    until INTEGER NOT NULL
) WITHOUT ROWID;

CREATE INDEX claims_until ON claims (until);
