-- Sends tool calls in the names of many sessions, in turn. Arguments: the file of sessions (path, token, session id and
-- what stands before tools' names, in each line) and the tool. Every request is made beforehand, so that wrk does nothing but send while it measures.

local AT_LEAST = 4096 -- ids of one session that are in flight at once must differ

local requests, turn = {}, 0

local function read_sessions(name)
   local sessions = {}
   for line in io.lines(name) do
      local path, token, id, prefix = line:match("^(%S+) (%S+) (%S+) (%S*)$")
      sessions[#sessions + 1] = { path = path, token = token, id = id, prefix = prefix }
   end
   return sessions
end

local function request_of(session, tool, id)
   local headers = {
      ["Accept"] = "application/json, text/event-stream",
      ["Authorization"] = "Bearer " .. session.token,
      ["Content-Type"] = "application/json",
      ["Host"] = wrk.headers["Host"],
      ["Mcp-Session-Id"] = session.id,
      ["MCP-Protocol-Version"] = "2025-11-25",
   }
   local call = '{"jsonrpc":"2.0","id":%d,"method":"tools/call","params":{"name":"%s","arguments":{"text":"the bench asks"}}}'
   return wrk.format("POST", session.path, headers, call:format(id, session.prefix .. tool))
end

function init(args)
   local sessions = read_sessions(args[1])
   for id = 1, math.max(#sessions, AT_LEAST) do
      requests[id] = request_of(sessions[(id - 1) % #sessions + 1], args[2], id)
   end
end

function request()
   turn = turn % #requests + 1
   return requests[turn]
end

function done(summary, latency)
   local errors = summary.errors
   io.write(string.format(
      'BENCH {"calls":%d,"seconds":%.6f,"bytes":%d,"p50_us":%d,"p99_us":%d,"failed":%d}\n',
      summary.requests, summary.duration / 1e6, summary.bytes, latency:percentile(50), latency:percentile(99),
      errors.connect + errors.read + errors.write + errors.status + errors.timeout
   ))
end
