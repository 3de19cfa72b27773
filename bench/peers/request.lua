-- What wrk sends: the request of the file $BENCH_REQUEST, byte for byte. Where it holds @SEQUENCE@, every request is
-- unique: a number stands there instead.
local file = assert(io.open(os.getenv("BENCH_REQUEST"), "rb"))
local text = file:read("*a")
file:close()
local before, after = text:match("^(.-)@SEQUENCE@(.*)$")
if before then
	local number = os.time() * 1000000
	request = function()
		number = number + 1
		return before .. string.format("%036d", number) .. after
	end
else
	wrk.format = function() return text end
end
