CREATE TABLE proxies (
    _id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    type TEXT NOT NULL,
    host TEXT NOT NULL,
    port INTEGER NOT NULL,
    username TEXT NOT NULL DEFAULT '',
    password TEXT NOT NULL DEFAULT '',
    status TEXT NOT NULL DEFAULT 'unknown',
    isActive INTEGER NOT NULL DEFAULT 1,
    exits TEXT NOT NULL DEFAULT '{}',
    lastLatencyMs INTEGER,
    lastCheckedAt INTEGER,
    lastError TEXT NOT NULL DEFAULT '',
    failCount INTEGER NOT NULL DEFAULT 0,
    createdAt INTEGER NOT NULL
) WITHOUT ROWID;
