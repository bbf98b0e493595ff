-- gateway/gcra.py once more, inside of Redis: a call is one step there, so several gateways cannot pass together.
-- A budget is one key: {origin, base, id, add, floor, id, add, floor, ...} in seconds since origin (a whole second, so
-- that floating point stays fine). A charge without an id is settled. What is owed no longer expires with its key.
-- Answers at once are a sorted set of lease ids by the time at which each ends unless its gateway renews it.

local TOLERANCE_S = 1e-6
local LONGEST_OPEN_S = 86400 -- an open charge older than that has lost its gateway: its estimate stands

local time = redis.call('TIME')
local seconds, micros = tonumber(time[1]), tonumber(time[2])

local function exact(number)
  return string.format('%.17g', number)
end

local function load_budget(key)
  local packed = redis.call('GET', key)
  local budget = {key = key, origin = seconds, base = -1e18, charges = {}}
  if packed then
    local flat = cmsgpack.unpack(packed)
    budget.origin, budget.base = flat[1], flat[2]
    for i = 3, #flat, 3 do
      table.insert(budget.charges, {id = flat[i], add = flat[i + 1], floor = flat[i + 2]})
    end
  end
  budget.now = (seconds - budget.origin) + micros * 1e-6
  return budget
end

-- Finds full_at, joins settled neighbours, and drops what an idle moment after it made irrelevant.
local function walk(budget)
  local at, kept = budget.base, {}
  for _, charge in ipairs(budget.charges) do
    local came = charge.floor - charge.add
    if charge.id and came < budget.now - LONGEST_OPEN_S then
      charge.id = false
    end
    if at + charge.add <= charge.floor then
      at, budget.base, kept = came, came, {}
    end
    at = math.max(at + charge.add, charge.floor)
    local last = kept[#kept]
    if charge.id or (last and last.id) then
      table.insert(kept, charge)
    elseif not last then
      budget.base = at
    else
      last.floor = math.max(last.floor + charge.add, charge.floor)
      last.add = last.add + charge.add
    end
  end
  budget.full_at, budget.charges = at, kept
  if at <= budget.now then
    budget.full_at, budget.base, budget.charges = budget.now, budget.now, {}
  end
end

local function append(budget, id, cost)
  table.insert(budget.charges, {id = id, add = cost, floor = budget.now + cost})
end

local function save(budget)
  walk(budget)
  local owed = budget.full_at - budget.now
  if owed <= 0 then
    redis.call('DEL', budget.key)
    return
  end
  local flat = {budget.origin, budget.base}
  for _, charge in ipairs(budget.charges) do
    table.insert(flat, charge.id)
    table.insert(flat, charge.add)
    table.insert(flat, charge.floor)
  end
  redis.call('SET', budget.key, cmsgpack.pack(flat), 'PX', math.ceil(owed * 1000) + 1000)
end

local function hold(key, id, lease_s)
  redis.call('ZADD', key, exact(seconds + micros * 1e-6 + lease_s), id)
  redis.call('PEXPIRE', key, math.ceil(lease_s * 1000) + 1000)
end

-- charge <id> <lease_s> <n> {<cost_s> <period_s>} x n {<limit>} ...: all or nothing; a cost of 0 only reads.
-- KEYS: n budgets, then one set of leases for each limit. Gives: passed, the number of the full set or 0, then the wait
-- and what is owed of each budget.
local function charge()
  local id, lease_s, count = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
  local budgets, answer, passes = {}, {1, 0}, true
  for i = 1, count do
    local cost, period = tonumber(ARGV[2 + 2 * i]), tonumber(ARGV[3 + 2 * i])
    local budget = load_budget(KEYS[i])
    walk(budget)
    budget.cost = cost
    budget.wait = math.max(budget.full_at - budget.now, 0) + cost - period
    if cost > 0 and budget.wait > TOLERANCE_S then
      passes = false
    end
    table.insert(budgets, budget)
  end
  for i = count + 1, #KEYS do
    redis.call('ZREMRANGEBYSCORE', KEYS[i], '-inf', exact(seconds + micros * 1e-6))
    if redis.call('ZCARD', KEYS[i]) >= tonumber(ARGV[3 + count + i]) then
      passes = false
      answer[2] = i - count
    end
  end
  if not passes then
    answer[1] = 0
  end
  for _, budget in ipairs(budgets) do
    if passes and budget.cost > 0 then
      append(budget, id, budget.cost)
      save(budget)
    end
    table.insert(answer, exact(budget.wait))
    table.insert(answer, exact(math.max(budget.full_at - budget.now, 0)))
  end
  if passes then
    for i = count + 1, #KEYS do
      hold(KEYS[i], id, lease_s)
    end
  end
  return answer
end

-- finish <id> <n> {<cost_s> <beyond_s>} x n: what each charge cost in truth, and what was used beyond it.
-- KEYS: n budgets, then sets of leases. An id that is not there has been finished, or has drained.
local function finish()
  local id, count = ARGV[1], tonumber(ARGV[2])
  for i = 1, count do
    local cost, beyond = tonumber(ARGV[1 + 2 * i]), tonumber(ARGV[2 + 2 * i])
    local budget = load_budget(KEYS[i])
    for _, entry in ipairs(budget.charges) do
      if entry.id == id then
        entry.id = false
        entry.floor = entry.floor - entry.add + math.min(cost, entry.add)
        entry.add = math.min(cost, entry.add)
      end
    end
    if beyond > 0 then
      walk(budget)
      append(budget, false, beyond)
    end
    save(budget)
  end
  for i = count + 1, #KEYS do
    redis.call('ZREM', KEYS[i], id)
  end
  return 1
end

-- renew <lease_s> {<id>} ...: one for each of KEYS, sets of leases.
local function renew()
  for i = 1, #KEYS do
    hold(KEYS[i], ARGV[1 + i], tonumber(ARGV[1]))
  end
  return #KEYS
end
