"""A receiver of tusd's HTTP hooks, written as tusd's documentation shows it; it knows nothing of Landfall."""

import json
import sys
import time
from http.server import BaseHTTPRequestHandler, HTTPServer


class HTTPHookHandler(BaseHTTPRequestHandler):
    def do_POST(self):
        content_length = int(self.headers["Content-Length"])
        hook_request = json.loads(self.rfile.read(content_length))
        upload = hook_request["Event"]["Upload"]
        print(json.dumps({"type": hook_request["Type"], "upload": upload}), flush=True)

        hook_response = {"HTTPResponse": {"Header": {}}}

        # A filename is required, and only it is kept, with the time.
        if hook_request["Type"] == "pre-create":
            meta_data = upload["MetaData"]
            if "filename" not in meta_data:
                hook_response["RejectUpload"] = True
                hook_response["HTTPResponse"]["StatusCode"] = 400
                hook_response["HTTPResponse"]["Body"] = "no filename provided"
                hook_response["HTTPResponse"]["Header"]["X-Some-Header"] = "yes"
            else:
                hook_response["ChangeFileInfo"] = {
                    "MetaData": {"filename": meta_data["filename"], "creation_time": time.ctime()}
                }
                if meta_data["filename"] == "prefixed":
                    hook_response["ChangeFileInfo"]["ID"] = "prefix-1"

        # The client is told where the file will be.
        if hook_request["Type"] == "pre-finish":
            hook_response["HTTPResponse"]["Header"]["Link"] = '<https://example.com/files/1>; rel="related"'

        if hook_request["Type"] == "pre-terminate" and upload["MetaData"].get("filename") == "kept":
            hook_response["RejectTermination"] = True
            hook_response["HTTPResponse"]["StatusCode"] = 409

        response_body = json.dumps(hook_response)
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(response_body.encode())

    def log_message(self, *args):
        pass


httpd = HTTPServer(("127.0.0.1", 0), HTTPHookHandler)
print(json.dumps({"port": httpd.server_address[1]}), flush=True)
sys.stdout.flush()
httpd.serve_forever()
