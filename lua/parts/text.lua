-- text: integers, sequences, terms of orders, and times as the text that is stored.
--
-- In Lua 5.1 printing an integer costs ten times as much as looking up its text, so texts of small integers (prices,
-- quantities, traders) are cached between calls. Lua hashes each string that it makes, byte by byte, so pieces are
-- joined once. Caches are bounded, and never change a result.
local text = {}

-- Integers above are sequences and trade numbers: each is needed once, and a large cache makes every garbage collection
-- slower, since Lua walks through all of it.
local CACHED_MAX = 2000
local format, floor, concat, min = string.format, math.floor, table.concat, math.min

-- Returns a table that makes a value at its first use, and caches values of small integers.
local function cached(make)
  return setmetatable({}, {
    __index = function(values, n)
      local made = make(n)
      if n >= -CACHED_MAX and n <= CACHED_MAX then rawset(values, n, made) end
      return made
    end,
  })
end

-- text.integer[n]: n in decimal digits. text.comma[n]: the same behind a comma, for quantities alone: a second cached
-- text of each price and trader would displace more useful data from the processor's cache.
text.integer = cached(function(n) return format('%d', n) end)
text.comma = cached(function(n) return format(',%d', n) end)

-- text.number['123']: the integer of these digits; a cached one costs a quarter of tonumber.
local CACHED_DIGITS_MAX = 4
text.number = setmetatable({}, {
  __index = function(numbers, digits)
    local made = tonumber(digits)
    if #digits <= CACHED_DIGITS_MAX then rawset(numbers, digits, made) end
    return made
  end,
})

-- The kind of a command is a letter, in batches its byte: G gtc, I ioc, F fok, P post-only; R replaces an order, Q with
-- a post-only one; a capital buys, a small letter sells. C is a cancel. Small letters have the higher bytes, so SELL and
-- above are sells.
local byte = string.byte
local function kinds_of(letters)
  local kinds = {}
  for i = 1, #letters do kinds[byte(letters, i)] = true end
  return kinds
end
text.CANCEL, text.SELL = byte('C'), byte('a')
text.GTC, text.FOK = kinds_of('GgPpRrQq'), kinds_of('Ff')
text.POST_ONLY, text.REPLACE = kinds_of('PpQq'), kinds_of('RrQq')
text.LOOKS_FIRST = kinds_of('FfPpQq') -- orders that look at the other side before they trade

-- By the kind of an order, pieces of its line: side, time in force, and the latter behind a quantity of 1.
-- What a replace knows of its order stands behind its time in force (`text.replacing`).
text.side, text.force, text.one_and_force = {}, {}, {}
for letter, name in pairs({ G = 'gtc', I = 'ioc', F = 'fok', P = 'gtc/p//', R = 'gtc', Q = 'gtc/p//' }) do
  for side, kind in pairs({ [',buy,'] = byte(letter), [',sell,'] = byte(string.lower(letter)) }) do
    text.side[kind] = side
    text.force[kind], text.one_and_force[kind] = ',' .. name .. ',', ',1,' .. name .. ','
  end
end

-- The time in force of an order that replaces another one: `gtc/<p where it is post-only>/<sequence of that order>/<what
-- that order had filled>`. `carried`: the last part as text.
function text.replacing(kind, target, carried)
  return (text.POST_ONLY[kind] and ',gtc/p/' or ',gtc//') .. text.integer[target] .. '/' .. carried .. ','
end

-- Sequences and trade numbers have a fixed number of digits. A number and the next one share all but their last three
-- digits, so texts of those are cached, and the leading digits are printed once in a thousand numbers.
local THOUSAND = 1000
local last_digits = {}
for number = 0, THOUSAND - 1 do last_digits[number] = format('%03d', number) end
text.last_digits = last_digits

local LEADING_DIGITS = '%0' .. limits.sequence_digits - 3 .. 'd'
function text.leading_digits(number) return format(LEADING_DIGITS, (number - number % THOUSAND) / THOUSAND) end

local latest_thousand, latest_leading_digits = -1, ''

-- A sequence as it stands in books, hashes, lists and lines. Its fixed length sorts members of equal score by age.
function text.sequence(number)
  local rest = number % THOUSAND
  if number - rest ~= latest_thousand then
    latest_thousand, latest_leading_digits = number - rest, text.leading_digits(number)
  end
  return latest_leading_digits .. last_digits[rest]
end

-- Joins `count` parts of about 100 bytes each. table.concat joins results above 8 KB pair by pair, and Lua copies and
-- hashes each intermediate text. So groups are joined first, then 16 groups at a time: a third of the bytes are copied.
local GROUP = 64
function text.join(parts, count)
  local groups, joined = {}, 0
  for from = 1, count, GROUP do
    joined = joined + 1
    groups[joined] = concat(parts, '', from, min(from + GROUP - 1, count))
  end
  while joined > 1 do
    for g = joined + 1, joined + 15 do groups[g] = '' end
    local fewer = 0
    for g = 1, joined, 16 do
      fewer = fewer + 1
      groups[fewer] = groups[g] .. groups[g + 1] .. groups[g + 2] .. groups[g + 3] .. groups[g + 4] .. groups[g + 5]
        .. groups[g + 6] .. groups[g + 7] .. groups[g + 8] .. groups[g + 9] .. groups[g + 10] .. groups[g + 11]
        .. groups[g + 12] .. groups[g + 13] .. groups[g + 14] .. groups[g + 15]
    end
    joined = fewer
  end
  return groups[1] or ''
end

text.MS_PER_DAY = 86400000
local MS_PER_DAY = text.MS_PER_DAY
local latest_day, latest_date = -1, ''

-- A day, counted from 1970-01-01, as YYYY-MM-DD (H. Hinnant, "chrono-compatible low-level date algorithms").
local function date(day)
  local z = day + 719468
  local era = floor(z / 146097)
  local day_of_era = z - era * 146097
  local year_of_era = floor((day_of_era - floor(day_of_era / 1460) + floor(day_of_era / 36524)
    - floor(day_of_era / 146096)) / 365)
  local day_of_year = day_of_era - (365 * year_of_era + floor(year_of_era / 4) - floor(year_of_era / 100))
  local month_from_march = floor((5 * day_of_year + 2) / 153)
  local day_of_month = day_of_year - floor((153 * month_from_march + 2) / 5) + 1
  local month = month_from_march + (month_from_march < 10 and 3 or -9)
  local year = year_of_era + era * 400 + (month <= 2 and 1 or 0)
  return format('%04d-%02d-%02d', year, month, day_of_month)
end

-- Milliseconds since 1970 as RFC 3339 in UTC, e.g. 2026-11-22T23:53:06.123Z.
function text.time(time_ms)
  local day = floor(time_ms / MS_PER_DAY)
  if day ~= latest_day then
    latest_day, latest_date = day, date(day)
  end
  local ms = time_ms - day * MS_PER_DAY
  return format('%sT%02d:%02d:%02d.%03dZ', latest_date, floor(ms / 3600000),
    floor(ms / 60000) % 60, floor(ms / 1000) % 60, ms % 1000)
end

-- Seconds, to measure durations. Functions of Redis 7.0 have no `os`; on later servers TIME stands still while a
-- function runs.
local has_os, os_clock = pcall(function() return os.clock end)
text.clock = has_os and os_clock or function()
  local now = redis.call('TIME')
  return now[1] + now[2] / 1e6
end
