-- Tables, indexes, recursion, windows, JSON and updates.
CREATE TABLE t(id INTEGER PRIMARY KEY, name TEXT, value REAL);
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000)
INSERT INTO t SELECT i, printf('name%05d', i * 7919 % 3001), i / 7.0 FROM n;
CREATE INDEX by_name ON t(name);
SELECT count(*), sum(value), avg(length(name)), max(name) FROM t;
SELECT id, name FROM t WHERE name BETWEEN 'name01000' AND 'name01005' ORDER BY name DESC;
SELECT name, row_number() OVER (ORDER BY value DESC) FROM t LIMIT 3;
SELECT json_extract('{"a":[1,2,{"b":3}]}', '$.a[2].b'), hex(zeroblob(4)), 1e400, 9223372036854775807 + 1;
UPDATE t SET value = value * 2 WHERE id % 3 = 0; DELETE FROM t WHERE id > 2000;
SELECT group_concat(id) FROM (SELECT id FROM t WHERE value > 500 ORDER BY value LIMIT 5);
PRAGMA integrity_check;
