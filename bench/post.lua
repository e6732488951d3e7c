-- wrk script: the request whose body stands in the file BODY, with the client key CLIENT_KEY; figures as JSON.
local file = assert(io.open(os.getenv("BODY"), "r"))
wrk.method = "POST"
wrk.body = file:read("*a")
wrk.headers["Content-Type"] = "application/json"
wrk.headers["Authorization"] = "Bearer " .. os.getenv("CLIENT_KEY")
file:close()

function done(summary, latency)
  local found = summary.errors
  local errors = found.connect + found.read + found.write + found.status + found.timeout
  print(string.format('{"requests": %d, "seconds": %.6f, "errors": %d, "p50_ms": %.4f, "p99_ms": %.4f}',
    summary.requests, summary.duration / 1e6, errors, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3))
end
