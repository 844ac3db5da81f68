/** Names of this machine that do not depend on DNS, as HOST names them or in the notation of URL. */
const THIS_MACHINE = /^(localhost|.+\.localhost|127\.\d+\.\d+\.\d+|::1|\[::1\])$/;

/** Whether a host is this machine itself, so that no other machine can reach or be reached by it. */
export function isLoopback(host: string): boolean {
  return THIS_MACHINE.test(host);
}
