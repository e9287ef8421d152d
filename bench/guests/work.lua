-- Lua at work: tables, strings, closures, floats. arg[1] is the number of rounds.
local total = 0
local function mix(a) total = (total * 31 + a) % 4294967291 end
for round = 1, tonumber(arg[1]) do
  local t = {}
  for i = 1, 3000 do t[i] = (i * 7919 + round * 104729) % 10007 end
  table.sort(t)
  mix(t[1500])
  local words = {}
  for i = 1, 1000 do words[#words + 1] = string.format("%d:%s", t[i], ("x"):rep(i % 7)) end
  local text = table.concat(words, ",")
  local count = 0
  for a, b in text:gmatch("(%d+):(x*)") do count = count + tonumber(a) + #b end
  mix(count)
  local memo = {}
  local function paths(x, y)
    if x == 0 or y == 0 then return 1 end
    local key = x * 64 + y
    local known = memo[key]
    if not known then known = (paths(x - 1, y) + paths(x, y - 1)) % 1000003; memo[key] = known end
    return known
  end
  mix(paths(40, 40))
  local sum = 0.0
  for i = 1, 20000 do sum = sum + math.sin(i) / i end
  mix(math.floor(sum * 1e9))
end
print(total)
