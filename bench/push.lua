-- wrk's script: fills the templates that bench/documents.py wrote, and notes the receipt ids that were acknowledged.
--
-- BENCH_TEMPLATES: the file of templates; BENCH_SEED: the same seed sends the same receipts; BENCH_ACKNOWLEDGED: where
-- the ids of acknowledged receipts are written; BENCH_ANSWER: what an answer must hold; BENCH_REPEAT: after so many
-- requests the same ones again (0: never).

local templates = {}
local expected = os.getenv("BENCH_ANSWER")
local repeat_after = tonumber(os.getenv("BENCH_REPEAT") or "0")
local seed = tonumber(os.getenv("BENCH_SEED"))
local sent, unexpected = 0, 0
local acknowledged

local file = assert(io.open(os.getenv("BENCH_TEMPLATES"), "rb"))
while true do
  local count = file:read("*n")
  if not count then break end
  file:read(1)
  local pieces = {}
  for number = 1, count do
    local length = file:read("*n")
    file:read(1)
    pieces[number] = length > 0 and file:read(length) or ""
  end
  templates[#templates + 1] = pieces
end
file:close()

function init(args)
  acknowledged = assert(io.open(os.getenv("BENCH_ACKNOWLEDGED"), "w"))
  acknowledged:setvbuf("full", 65536)
  math.randomseed(seed)
end

local function hex()
  return string.format("%08x", math.random(0, 4294967295))
end

function request()
  if repeat_after > 0 and sent % repeat_after == 0 then math.randomseed(seed) end
  sent = sent + 1
  local places = {
    r = hex() .. hex() .. hex() .. hex(),
    i = string.format("01%08d%07d", math.random(0, 99999999), math.random(0, 9999999)),
    d = string.format("%016d", math.random(0, 999999999)),
  }
  local pieces = templates[math.random(1, #templates)]
  local body = {}
  for number = 1, #pieces do
    body[number] = number % 2 == 0 and places[pieces[number]] or pieces[number]
  end
  return wrk.format("POST", nil, {
    ["Host"] = "localhost",
    ["Content-Type"] = "text/xml; charset=utf-8",
    ["SOAPAction"] = '"paSendRTV2"',
    ["X-Request-Id"] = places.r,
  }, table.concat(body))
end

function response(status, headers, body)
  if status == 200 and string.find(body, expected, 1, true) then
    acknowledged:write(headers["X-Request-Id"], "\n")
  else
    unexpected = unexpected + 1
    acknowledged:write("! ", status, "\n")
  end
end

function done(summary, latency, requests)
  local out = io.open(os.getenv("BENCH_ACKNOWLEDGED") .. ".summary", "w")
  out:write(string.format(
    '{"requests": %d, "seconds": %.6f, "errors": %d, "p50_ms": %.3f, "p99_ms": %.3f, "max_ms": %.3f}\n',
    summary.requests, summary.duration / 1e6,
    summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.status + summary.errors.timeout,
    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3, latency.max / 1e3))
  out:close()
end
