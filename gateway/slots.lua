-- The slots of inference servers that several gateways share. A call is one step in Redis, so none is given twice.
-- A slot that is taken is a lease: an id in a sorted set for each server, by the time at which it ends unless its
-- gateway renews it. A gateway in which somebody waits has one ticket: who came first is first, but for those whose
-- caller has nothing running, who go before all others. A slot that comes free goes to the first ticket, and its
-- gateway is told so in its inbox.
--
-- KEYS: waiting (gateways by their place), tickets (gateway -> the lease that it is to get), seen (gateways by the time
-- at which they count as gone), grace, then one set of leases for each server.
-- ARGV: gateway, lease_s, slots of a server, a digit for each server (1: it takes answers), then what the call needs.

local LATER = 1e10 -- behind all times
local SEEN_S = 5
local GRACE_MS = 2500
local KEPT_MS = 60000
local INBOX = 'gateway:inbox:'
local INBOX_LENGTH = 10000
local FIRST_SERVER = 4 -- the key before the first

local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) * 1e-6
local gateway, lease_s, slots, takes = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4]
local waiting, tickets, seen, grace = KEYS[1], KEYS[2], KEYS[3], KEYS[4]

local function exact(number)
  return string.format('%.17g', number)
end

local function withdraw(name)
  redis.call('ZREM', waiting, name)
  redis.call('HDEL', tickets, name)
end

-- Leases that nobody renewed end, and gateways that were not heard of wait for nothing any more.
local function tidy()
  for i = FIRST_SERVER + 1, #KEYS do
    redis.call('ZREMRANGEBYSCORE', KEYS[i], '-inf', exact(now))
  end
  for _, name in ipairs(redis.call('ZRANGEBYSCORE', seen, '-inf', exact(now))) do
    withdraw(name)
    redis.call('ZREM', seen, name)
  end
end

local function hold(key, id)
  redis.call('ZADD', key, exact(now + lease_s), id)
  redis.call('PEXPIRE', key, math.ceil(lease_s * 1000) + 1000)
end

-- The key of the server with the fewest leases, or nil when all are full.
local function free_server()
  local best, fewest = nil, slots
  for i = FIRST_SERVER + 1, #KEYS do
    local at = i - FIRST_SERVER
    if string.sub(takes, at, at) == '1' then
      local count = redis.call('ZCARD', KEYS[i])
      if count < fewest then
        best, fewest = KEYS[i], count
      end
    end
  end
  if best and redis.call('EXISTS', grace) == 1 then
    return nil
  end
  return best
end

local function hand_out()
  while true do
    local name = redis.call('ZRANGE', waiting, 0, 0)[1]
    local server = name and free_server()
    if not server then
      return
    end
    local id = redis.call('HGET', tickets, name)
    withdraw(name)
    if id then
      hold(server, id)
      redis.call('XADD', INBOX .. name, 'MAXLEN', '~', INBOX_LENGTH, '*', 'kind', 'slot', 'id', id, 'server', server)
      redis.call('PEXPIRE', INBOX .. name, KEPT_MS)
    end
  end
end

local function note_gateway()
  redis.call('ZADD', seen, exact(now + SEEN_S), gateway)
  redis.call('PEXPIRE', seen, KEPT_MS)
end

-- slot_ask ... <id> <is first>: a slot, or a ticket for the next one. Gives {1, server}, or {0, the ticket's id, its
-- place, how many gateways wait}.
local function slot_ask()
  local id, score = ARGV[5], now + (ARGV[6] == '1' and 0 or LATER)
  tidy()
  note_gateway()
  hand_out()
  local server = free_server()
  if server then
    hold(server, id)
    return {1, server}
  end
  local own = redis.call('HGET', tickets, gateway)
  if not own then
    own = id
    redis.call('HSET', tickets, gateway, id)
    redis.call('ZADD', waiting, exact(score), gateway)
    redis.call('PEXPIRE', tickets, KEPT_MS)
    redis.call('PEXPIRE', waiting, KEPT_MS)
  else
    redis.call('ZADD', waiting, 'LT', exact(score), gateway)
  end
  return {0, own, redis.call('ZRANK', waiting, gateway) + 1, redis.call('ZCARD', waiting)}
end

-- slot_release ... <id>: whoever is next gets it.
local function slot_release()
  for i = FIRST_SERVER + 1, #KEYS do
    redis.call('ZREM', KEYS[i], ARGV[5])
  end
  tidy()
  hand_out()
  return 1
end

-- slot_renew ... {<id> <number of its server>} ...: they are taken, whatever was known of them. Gives how many gateways
-- there are.
local function slot_renew()
  for i = 5, #ARGV, 2 do
    hold(KEYS[FIRST_SERVER + tonumber(ARGV[i + 1])], ARGV[i])
  end
  for _, key in ipairs({waiting, tickets}) do
    redis.call('PEXPIRE', key, KEPT_MS)
  end
  note_gateway()
  tidy()
  hand_out()
  return redis.call('ZCARD', seen)
end

-- slot_move ... <id> <number of a server>: its answer is made by another server than the lease said.
local function slot_move()
  for i = FIRST_SERVER + 1, #KEYS do
    redis.call('ZREM', KEYS[i], ARGV[5])
  end
  hold(KEYS[FIRST_SERVER + tonumber(ARGV[6])], ARGV[5])
  hand_out()
  return 1
end

-- slot_return ...: Redis was away, and has forgotten, or never heard, what runs. Nothing new until all have told it.
local function slot_return()
  redis.call('SET', grace, 1, 'PX', GRACE_MS)
  return 1
end

-- slot_leave ...: an orderly end.
local function slot_leave()
  withdraw(gateway)
  redis.call('ZREM', seen, gateway)
  return 1
end
