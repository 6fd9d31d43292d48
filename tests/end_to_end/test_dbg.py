import time, os, signal
from decimal import Decimal
from tests.end_to_end.truth import *
def test_early_signal(jobs):
    texts=[f"text {n} "+"word "*300 for n in range(60000)]
    settings = jobs.job(texts)
    for num in (signal.SIGINT, signal.SIGTERM):
        s=jobs.spawn(settings)
        # planning: wait for runs folder
        d=jobs.folder/"out"/".parquill"/"runs"
        t=time.monotonic()
        while not (d.exists() and any(d.iterdir())) and time.monotonic()-t<30: time.sleep(.01)
        time.sleep(.3)
        s.process.send_signal(num)
        b=time.monotonic()
        done=s.wait()
        print("EARLY", num, done.exit_code, time.monotonic()-b, repr(done.stderr[-300:]), done.summary, list(d.iterdir()), jobs.service.stats()["requests"])
def test_double(jobs):
    jobs.service.configure(latency_ms=30000)
    settings = jobs.job([f"t{n}" for n in range(30)], limits={"max_at_once":8})
    for num in (signal.SIGINT, signal.SIGTERM):
        s=jobs.spawn(settings)
        n=jobs.service.stats()["requests"]
        while jobs.service.stats()["requests"]<n+8: time.sleep(.05)
        s.process.send_signal(num); time.sleep(1); b=time.monotonic(); s.process.send_signal(num)
        done=s.wait()
        print("DOUBLE", num, done.exit_code, time.monotonic()-b, repr(done.stderr[-300:]), done.summary.get("state"), done.summary.get("in_doubt_usd"))
def test_hold(jobs):
    jobs.service.configure(prompt_tokens="tiktoken:o200k_base", faults=[{"kind":"status:500","match":"bad","times":1}])
    settings=jobs.job(["a","bad"], retry={"in_doubt":"hold"}, tolerate={"not_ok":1})
    a=jobs.run(settings); n=jobs.service.stats()["requests"]
    b=jobs.run(settings); m=jobs.service.stats()["requests"]
    print("HOLD", a.column("status"), n, b.column("status"), m, b.summary["in_doubt_usd"], b.column("in_doubt_usd"), b.summary["cost_usd"])
def test_redo_sum(jobs):
    jobs.service.configure(faults=[{"kind":"length","match":"cut","times":1},{"kind":"status:500","match":"bad","times":1}])
    settings=jobs.job(["cut","bad","c"], tolerate={"not_ok":1}, retry={"attempts":1})
    a=jobs.run(settings)
    b=jobs.run(settings,"--redo","truncated,failed")
    print("REDO", a.summary["cost_usd"], b.summary["cost_usd"], billed_usd(jobs.service), b.summary["in_doubt_usd"], b.column("in_doubt_usd"), a.summary["in_doubt_usd"])
    print(jobs.run(settings, "--json", command="spend").stdout)
def test_dup_fail(jobs):
    jobs.service.configure(faults=[{"kind":"status:400","match":"bad","times":1}])
    settings=jobs.job(["bad","bad","c"], tolerate={"not_ok":1})
    a=jobs.run(settings)
    print("DUP", a.column("status"), a.column("attempts"), a.column("run_id"), a.column("error_code"))
    b=jobs.run(settings)
    print("DUP", b.column("status"), b.column("attempts"), b.column("reused"), jobs.service.stats()["requests"])
def test_month(jobs):
    settings=jobs.job([f"t{n}" for n in range(20)], budget={"monthly_usd": "0.001", "run_usd": 1})
    a=jobs.run(settings); print("MONTH", a.exit_code, a.summary["budget"], a.summary["cost_usd"])
    for k in range(5):
        b=jobs.run({**settings, "output": str(jobs.folder/f"o{k}"), "state": str(jobs.folder/f"s{k}")})
        print("MONTH", b.exit_code, b.summary and (b.summary["budget"], b.summary["cost_usd"]), b.stderr[-250:])
        if b.exit_code: break
