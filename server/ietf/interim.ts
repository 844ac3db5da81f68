import { validateHeaderValue } from 'node:http';
import type { Response } from 'express';

/**
 * Sends the interim answer 104 (Upload Resumption Supported). Node has a method for 100, 102 and 103 only. The socket
 * belongs to this answer once its turn has come, and nothing of the final answer is written yet, so the interim answer
 * can go there as it is.
 * @returns whether it was sent
 */
export function sendInterim(res: Response, headers: Record<string, string>): boolean {
  const { req, socket } = res;
  // RFC 9110, 15.2: "A server MUST NOT send a 1xx response to an HTTP/1.0 client."
  if (req.httpVersion !== '1.1' || !socket?.writable || res.headersSent) return false;
  const lines = Object.entries(headers).map(([name, value]) => {
    validateHeaderValue(name, value);
    return `${name}: ${value}\r\n`;
  });
  socket.write(`HTTP/1.1 104 Upload Resumption Supported\r\n${lines.join('')}\r\n`, 'latin1');
  return true;
}
