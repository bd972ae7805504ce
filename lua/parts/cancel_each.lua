-- cancel_each: the cancels of a trader's orders, one for each, as cancel_all.lua and cancel_due.lua append them.
local cancel_each = {}

local COMMANDS_MAX = limits.commands_max -- cancels of a step, and orders that it looks at

-- Looks at a bounded number of a trader's orders behind the sequence `after`. Returns those that may be open, oldest
-- first; the last order that was looked at where later ones may be open, else 0; and the sequence below which all
-- orders are, which is `before` unless that is 0.
function cancel_each.look(tag, id, sequence, matched, after, before)
  if before == 0 then before = sequence + 1 end
  local sequences = trader.between(tag, id, after, before, COMMANDS_MAX)
  local targets, more = trader.unfinished(tag, sequences, matched, COMMANDS_MAX)
  local reached = more and targets[#targets] or #sequences >= COMMANDS_MAX and sequences[#sequences] or 0
  return targets, reached, before
end

-- Appends a log entry that cancels these orders behind a sequence. Returns its time in milliseconds and as text.
function cancel_each.append(tag, id, sequence, targets, time_ms)
  local count, sequences = #targets, {}
  for i = 1, count do sequences[i] = text.integer[targets[i]] end
  return log.append(tag, sequence, count, time_ms, {
    'entry', '', 'at', '', 'kinds', string.rep('C', count),
    'traders', '[' .. string.rep('"' .. id .. '",', count - 1) .. '"' .. id .. '"]',
    'prices', '[' .. table.concat(sequences, ',') .. ']',
    'quantities', '[' .. string.rep('0,', count - 1) .. '0]',
  })
end
