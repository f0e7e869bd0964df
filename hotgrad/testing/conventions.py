def check(op): return []
def compare(*a): return []
def probe_overflow(*a): return []
