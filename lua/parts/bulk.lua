-- bulk: one Redis command for many members of a collection, cut into slices that fit Lua's stack.
local bulk = {}

-- Lua 5.1 cannot unpack more than about 8,000 values. Even, so that a slice never cuts a pair.
local SLICE = 4000

-- Calls the command with all arguments, slice by slice; does nothing without arguments.
function bulk.call(command, key, arguments)
  local count = #arguments
  for from = 1, count, SLICE do
    redis.call(command, key, unpack(arguments, from, math.min(from + SLICE - 1, count)))
  end
end

-- Reads fields of a hash: their values in order, false for a field that is missing.
function bulk.read(key, fields)
  local count = #fields
  if count > 0 and count <= SLICE then return redis.call('HMGET', key, unpack(fields)) end
  local values = {}
  for from = 1, count, SLICE do
    local slice = redis.call('HMGET', key, unpack(fields, from, math.min(from + SLICE - 1, count)))
    for i = 1, #slice do values[from + i - 1] = slice[i] end
  end
  return values
end
