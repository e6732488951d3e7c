CREATE TABLE {provider}_bindings (
    _id TEXT PRIMARY KEY,
    proxyId TEXT NOT NULL,
    {provider}KeyId TEXT NOT NULL,
    priority INTEGER NOT NULL DEFAULT 1,
    isActive INTEGER NOT NULL DEFAULT 1,
    createdAt INTEGER NOT NULL
) WITHOUT ROWID;
CREATE UNIQUE INDEX {provider}_bindings_pair ON {provider}_bindings (proxyId, {provider}KeyId)
    WHERE proxyId != '';
CREATE INDEX {provider}_bindings_active ON {provider}_bindings (proxyId, isActive);
CREATE INDEX {provider}_bindings_owner ON {provider}_bindings ({provider}KeyId);
