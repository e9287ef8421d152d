"""json, sqlite3, hashlib, zlib, struct and base64."""

import base64
import hashlib
import json
import sqlite3
import struct
import zlib

document = json.loads('{"a": [1, 2.5, null, true, "\\u00e9"], "b": {"c": -1e-7}}')
print(document, json.dumps(document, indent=1, sort_keys=True))
connection = sqlite3.connect(":memory:")
connection.execute("create table t(a, b)")
connection.executemany("insert into t values (?, ?)", ((i, str(i * i)) for i in range(500)))
print(connection.execute("select count(*), sum(a), max(b), total(a) / 7 from t").fetchall())
data = bytes(range(256)) * 500
for name in ("md5", "sha1", "sha256", "sha512", "blake2b", "sha3_256"):
    print(name, hashlib.new(name, data).hexdigest())
print(zlib.crc32(data), struct.pack(">hd", 3, 0.5), base64.b64encode(zlib.compress(data))[:60])
