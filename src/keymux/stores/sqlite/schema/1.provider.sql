CREATE TABLE {provider}_keys (
    _id TEXT PRIMARY KEY,
    apiKey TEXT NOT NULL,
    keyHash TEXT NOT NULL UNIQUE,
    label TEXT NOT NULL DEFAULT '',
    quotaGroup TEXT NOT NULL DEFAULT '',
    status TEXT NOT NULL DEFAULT 'healthy',
    statusReason TEXT NOT NULL DEFAULT '',
    cooldownUntil INTEGER,
    modelCooldowns TEXT NOT NULL DEFAULT '{{}}',
    step INTEGER NOT NULL DEFAULT 0,
    generation INTEGER NOT NULL DEFAULT 0,
    consecutiveFailures INTEGER NOT NULL DEFAULT 0,
    suspectedAt INTEGER,
    lastError TEXT NOT NULL DEFAULT '',
    tokensUsed INTEGER NOT NULL DEFAULT 0,
    requestsCount INTEGER NOT NULL DEFAULT 0,
    replacedBy TEXT NOT NULL DEFAULT '',
    createdAt INTEGER NOT NULL,
    lastUsedAt INTEGER,
    updatedAt INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE INDEX {provider}_keys_status ON {provider}_keys (status);
CREATE INDEX {provider}_keys_cooldown ON {provider}_keys (cooldownUntil);
CREATE INDEX {provider}_keys_created ON {provider}_keys (createdAt DESC);

CREATE TABLE {provider}_backup_keys (
    _id TEXT PRIMARY KEY,
    apiKey TEXT NOT NULL,
    keyHash TEXT NOT NULL UNIQUE,
    label TEXT NOT NULL DEFAULT '',
    isUsed INTEGER NOT NULL DEFAULT 0,
    activated INTEGER NOT NULL DEFAULT 0,
    usedFor TEXT,
    usedAt INTEGER,
    createdAt INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX {provider}_backup_keys_used ON {provider}_backup_keys (isUsed, createdAt);
