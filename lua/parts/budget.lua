-- budget: how much work one match call may do.
--
-- Redis serves nobody else while a function runs, so a call has two bounds: WORK_MAX, and the milliseconds of its
-- argument. The rest of the batch is left to the next call. Results do not depend on where a call ends.
local budget = {}

local clock, min, ceil = text.clock, math.min, math.ceil

-- A command costs as many fills as its quantity allows, so commands alone do not bound a call. Orders that a
-- fill-or-kill order or a cancel-all looks at count as fills.
local WORK_MAX = 2000

-- The clock is read once in this many commands and fills.
budget.CHECK_INTERVAL = 32

-- Share of its time that a call plans to use; the rest is for estimates that are too low.
local PLANNED_SHARE = 0.65

-- More commands than planned are read, since estimates may also be too high.
local READ_SHARE = 1.5 * PLANNED_SHARE

-- Estimated seconds for each command and fill: to match it, and afterwards to write its results and collect garbage.
-- Both are moving averages over calls that have enough work for a measurement.
local match_seconds, write_seconds = 2e-6, 3e-6
local LEARNING_WORK_MIN = 2 * budget.CHECK_INTERVAL
local NEWEST_WEIGHT = 0.2

-- Bounds the commands to read, so that little is read that the call has no time for.
function budget.commands_max(wanted, hold_ms)
  if not hold_ms then return wanted end
  return min(wanted, ceil(budget.CHECK_INTERVAL + READ_SHARE * hold_ms / 1000 / (match_seconds + write_seconds)))
end

-- The second at which writing must be finished; nil for a call without a bound in time.
function budget.deadline(started, hold_ms)
  return hold_ms and started + hold_ms * PLANNED_SHARE / 1000
end

-- Whether a call ends here. `fills` and `total` (commands and fills) are what it has done.
function budget.is_spent(deadline, fills, total)
  return fills > WORK_MAX or deadline and clock() + total * write_seconds > deadline
end

-- Learns from a call that is finished. `total`: its commands and fills.
function budget.learn(started, matched_at, total)
  if total < LEARNING_WORK_MIN then return end
  local kept = 1 - NEWEST_WEIGHT
  match_seconds = kept * match_seconds + NEWEST_WEIGHT * (matched_at - started) / total
  write_seconds = kept * write_seconds + NEWEST_WEIGHT * (clock() - matched_at) / total
end
