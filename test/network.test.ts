import { networkOf } from '../server/http/network.js';

test.each([
  ['203.0.113.4', '203.0.113.4'],
  ['203.0.113.4:1000', '203.0.113.4'],
  ['::ffff:203.0.113.4', '203.0.113.4'],
  ['2001:db8:1:2:3:4:5:6', '2001:db8:1:2::/64'],
  ['2001:db8:1:2::1', '2001:db8:1:2::/64'],
  ['[2001:db8:1:2::1]:443', '2001:db8:1:2::/64'],
  ['nonsense', 'unknown'],
  ['203.0.113.4, 198.51.100.1', 'unknown'],
  ['', 'unknown'],
  [undefined, 'unknown'],
])('%s counts as %s', (address, network) => {
  expect(networkOf(address)).toBe(network);
});
