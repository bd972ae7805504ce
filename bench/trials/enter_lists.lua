-- enter_lists: in place of trader.enter, each line to its trader's list at once, without what keeps it short.
local owners, lines, count = {}, {}, 0
function trader.begin() owners, lines, count = {}, {}, 0 end
function trader.file(id, line)
  count = count + 1
  owners[count], lines[count] = id, line
end
function trader.enter(tag)
  for n = 1, count do redis.call('RPUSH', list_key(tag, owners[n]), lines[n]) end
end
