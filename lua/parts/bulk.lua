-- bulk: one call for many members of a collection, in slices that fit Lua's stack.
local bulk = {}

-- Lua 5.1 refuses to unpack about 8,000 values; even, so that pairs stay together.
local SLICE = 4000

-- redis.call(command, key, ...arguments), a slice at a time; nothing for no arguments. Returns the last reply.
function bulk.call(command, key, arguments)
  local count, reply = #arguments, nil
  for from = 1, count, SLICE do
    reply = redis.call(command, key, unpack(arguments, from, math.min(from + SLICE - 1, count)))
  end
  return reply
end

-- The values of these fields of a hash, in order, false where there is none.
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
