-- Lua's tables, strings, numbers, coroutines, errors and metatables.
local t = {}
for i = 1, 20000 do t[i] = (i * 7919) % 10007 end
table.sort(t)
local s = 0
for i, v in ipairs(t) do s = s + v * i end
print(s, #t, t[1], t[#t], string.format("%.14g", math.sin(1) * 1e10))
print(("x"):rep(5), ("hello world"):gsub("o", "0"), string.pack("<i4d", 7, 0.5):byte(1, -1))
local co = coroutine.wrap(function(a) for i = 1, 3 do a = coroutine.yield(a * i) end return "end" end)
print(co(2), co(3), co(4), co(5))
print(pcall(error, {code = 1}), select("#", 1, nil, 3), 7 // 2, -7 // 2, 7 % -3, 2^53, 1 << 62)
print(pcall(function() local x = nil; return x.y end))
local m = setmetatable({}, {__index = function(_, k) return k .. "!" end, __call = function(_, a) return a + 1 end})
print(m.key, m(41), math.maxinteger + 1 == math.mininteger, 0x1p-1074, 1e308 * 10, -(0/0) ~= 0/0)
print(load("return 1 + ...")(2), os.time({year = 2020, month = 1, day = 1, hour = 0}))
