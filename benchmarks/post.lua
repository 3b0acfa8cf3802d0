-- One request, sent over and over by wrk; the result goes to stdout as one line of numbers.
-- Arguments after "--": the file that holds the body, the API key, the JSON header's length ("0": the body is JSON),
-- the file that holds what each answer must be, to the byte ("": none is looked at), and headers ("name: value").
local threads = {}

function setup(thread)
  table.insert(threads, thread)
end

local function read(path)
  local file = assert(io.open(path, "rb"))
  local text = file:read("*a")
  file:close()
  return text
end

function init(arguments)
  local path, key, header_length, answer = arguments[1], arguments[2], arguments[3], arguments[4]
  wrk.method = "POST"
  wrk.body = read(path)
  wrk.headers["Authorization"] = "Bearer " .. key
  if header_length == "0" then
    wrk.headers["Content-Type"] = "application/json"
  else
    wrk.headers["Content-Type"] = "application/octet-stream"
    wrk.headers["Inference-Header-Content-Length"] = header_length
  end
  for at = 5, #arguments do
    local name, value = arguments[at]:match("^([^:]+): (.*)$")
    wrk.headers[name] = value
  end
  wrong = 0
  if answer and answer ~= "" then
    local expected = read(answer)
    function response(status, _, body)
      if status ~= 200 or body ~= expected then
        wrong = wrong + 1
      end
    end
  end
end

function done(summary, latency, _)
  local errors, wrong = summary.errors, 0
  for _, thread in ipairs(threads) do
    wrong = wrong + (thread:get("wrong") or 0)
  end
  io.write(string.format("RESULT %d %d %d %d %d %d %d %d\n", summary.requests, summary.duration,
    latency:percentile(50), latency:percentile(99),
    errors.connect + errors.read + errors.write, errors.status, errors.timeout, wrong))
end
