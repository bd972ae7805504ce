-- text: integers, sequences and times as the text that is stored.
--
-- Printing an integer costs 0.25 µs in Lua 5.1, looking its text up 0.02 µs, so small ones (prices,
-- quantities, traders) are remembered between calls. The memory is bounded; what is remembered never
-- changes a result.
local text = {}

local REMEMBERED_MAX = 20000
local format, floor = string.format, math.floor

-- text.integer[n]: n >= 0 as decimal digits.
text.integer = setmetatable({}, {
  __index = function(remembered, n)
    local digits = format('%d', n)
    if n <= REMEMBERED_MAX then rawset(remembered, n, digits) end
    return digits
  end,
})

-- A book member is its sequence in 12 digits, so that equal scores sort by age.
local MEMBER_FORMAT = '%012d'
local MEMBER_DIGITS = 12

function text.member(sequence)
  return format(MEMBER_FORMAT, sequence)
end

-- The decimal text of a member's sequence: the member without its leading zeros.
function text.member_sequence(member, digits)
  local first = MEMBER_DIGITS + 1 - digits
  if string.byte(member, first) ~= 48 and string.byte(member, first - 1) == 48 then
    return string.sub(member, first)
  end
  return string.match(member, '^0*(%d+)$')
end

local MS_PER_DAY = 86400000
local remembered_day, remembered_date = -1, ''

-- Days since 1970-01-01 as YYYY-MM-DD (H. Hinnant, "chrono-compatible low-level date algorithms").
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
  if day ~= remembered_day then
    remembered_day, remembered_date = day, date(day)
  end
  local ms = time_ms - day * MS_PER_DAY
  return format('%sT%02d:%02d:%02d.%03dZ', remembered_date, floor(ms / 3600000),
    floor(ms / 60000) % 60, floor(ms / 1000) % 60, ms % 1000)
end
