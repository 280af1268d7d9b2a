-- Questions for wrk: `wrk … -s load.lua -- kind builds delay`.
-- kind: hit, miss, same (the validator is sent), batch, fixed PATH. delay: mean milliseconds between an answer and the next question.
local requests, position = {}, 0
local wait = 0

local function id(number)
    return string.format("%08x%032x", (number * 2654435761) % 4294967296, number)
end

function init(arguments)
    local kind, builds = arguments[1], tonumber(arguments[2])
    wait = tonumber(arguments[3] or "0")
    math.randomseed(7)
    local count = kind == "batch" and 16 or 10000
    for i = 1, count do
        local number = math.random(0, builds - 1)
        if kind == "hit" then
            requests[i] = wrk.format("GET", "/buildid/" .. id(number) .. "/plan")
        elseif kind == "miss" then
            requests[i] = wrk.format("GET", "/buildid/" .. id(number + 1000000000) .. "/plan")
        elseif kind == "same" then
            requests[i] = wrk.format("GET", "/buildid/" .. id(number) .. "/plan", {["If-None-Match"] = "*"})
        elseif kind == "batch" then
            local ids = {}
            for j = 1, 10000 do
                ids[j] = '"' .. id(math.random(0, builds - 1)) .. '"'
            end
            local body = '{"build_ids":[' .. table.concat(ids, ",") .. '],"only":"status"}'
            requests[i] = wrk.format("POST", "/v1/plans", {["Content-Type"] = "application/json"}, body)
        else
            requests[i] = wrk.format("GET", arguments[4])
        end
    end
end

function request()
    position = position % #requests + 1
    return requests[position]
end

-- Each pause is another one: connections that all pause as long ask in step, and what waits longest then has waited for the
-- others of its burst, however fast the server is.
function delay()
    return wait > 0 and math.random(0, 2 * wait) or 0
end

function done(summary, latency, requests)
    io.write(string.format("RESULT %d %d %d %d %d %d\n", summary.requests, summary.duration,
        latency:percentile(50), latency:percentile(99), summary.errors.status,
        summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.timeout))
end
