-- SQLite at work; :rounds is replaced by the number of rows.
CREATE TABLE t(id INTEGER PRIMARY KEY, k INTEGER, name TEXT, value REAL);
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :rounds)
INSERT INTO t SELECT i, i * 7919 % 100003, printf('name%06d', i * 104729 % 99991), i / 7.0 FROM n;
CREATE INDEX by_k ON t(k);
CREATE INDEX by_name ON t(name);
SELECT count(*), sum(k), max(name) FROM t;
SELECT sum(a.value * b.k) FROM t a JOIN t b ON a.k = b.id;
SELECT k % 100 AS g, count(*), avg(value) FROM t GROUP BY g ORDER BY avg(value) DESC LIMIT 5;
SELECT count(*) FROM t WHERE name LIKE '%99%' OR name GLOB '*1?3*';
UPDATE t SET value = value + k WHERE id % 3 = 0;
SELECT count(*) FROM (SELECT name, row_number() OVER (PARTITION BY k % 50 ORDER BY value) AS r FROM t) WHERE r < 10;
SELECT sum(length(replace(name, 'a', 'bcd'))), sum(value) FROM t;
