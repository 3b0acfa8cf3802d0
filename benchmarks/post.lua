-- One request, sent over and over by wrk; the result goes to stdout as one line of numbers.
-- Arguments after "--": the file that holds the body, the API key, the JSON header's length ("0": the body is JSON).
function init(arguments)
  local path, key, header_length = arguments[1], arguments[2], arguments[3]
  local file = assert(io.open(path, "rb"))
  wrk.method = "POST"
  wrk.body = file:read("*a")
  file:close()
  wrk.headers["Authorization"] = "Bearer " .. key
  if header_length == "0" then
    wrk.headers["Content-Type"] = "application/json"
  else
    wrk.headers["Content-Type"] = "application/octet-stream"
    wrk.headers["Inference-Header-Content-Length"] = header_length
  end
end

function done(summary, latency, _)
  local errors = summary.errors
  io.write(string.format("RESULT %d %d %d %d %d %d %d\n", summary.requests, summary.duration,
    latency:percentile(50), latency:percentile(99),
    errors.connect + errors.read + errors.write, errors.status, errors.timeout))
end
