"""A web server whose handler uses a pool.

The handler runs in a thread for each request. It has
no way to end a task that runs too long.
"""

import os
import time
from concurrent.futures import ProcessPoolExecutor
from http.server import BaseHTTPRequestHandler
from http.server import ThreadingHTTPServer


# Stands for a library that may crash or hang.
def work(n):
    if n == 0:
        os.abort()
    if n == 1:
        time.sleep(3600)
    return n * n


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        n = int(self.path.removeprefix("/square/"))
        try:
            task = pool.submit(work, n)
            status, text = 200, str(task.result(timeout=1))
        except TimeoutError:
            status, text = 504, "no result in time"
        except Exception as error:
            status, text = 500, str(error)
        self.send_response(status)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_):
        pass


if __name__ == "__main__":
    with ProcessPoolExecutor(4) as pool:
        address = ("127.0.0.1", 0)
        server = ThreadingHTTPServer(address, Handler)
        host, port = server.server_address
        print(f"http://{host}:{port}", flush=True)
        server.serve_forever()
