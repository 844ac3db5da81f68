import { randomUUID } from 'node:crypto';
import { nkeys } from '@nats-io/transport-node';

/** nats-server's settings of an operator with one account, and the credentials file of a user of it. */
export function makeNatsOperator(): { settings: string; credentials: string } {
  const operator = nkeys.createOperator();
  const [account, system, user] = [nkeys.createAccount(), nkeys.createAccount(), nkeys.createUser()];
  const limits = { subs: -1, data: -1, payload: -1, conn: -1, leaf: -1, imports: -1, exports: -1 };
  const room = { mem_storage: -1, disk_storage: -1, streams: -1, consumer: -1, wildcards: true };
  const operatorJwt = sign(operator, operator, { type: 'operator' });
  const accountJwt = sign(operator, account, { type: 'account', limits: { ...limits, ...room } });
  const systemJwt = sign(operator, system, { type: 'account', limits });
  const userJwt = sign(account, user, { type: 'user', subs: -1, data: -1, payload: -1 });
  return {
    settings: `
      jetstream { store_dir: "$STORE" }
      operator: ${operatorJwt}
      resolver: MEMORY
      system_account: ${system.getPublicKey()}
      resolver_preload: { ${account.getPublicKey()}: ${accountJwt}, ${system.getPublicKey()}: ${systemJwt} }`,
    credentials: [
      '-----BEGIN NATS USER JWT-----',
      userJwt,
      '------END NATS USER JWT------',
      '-----BEGIN USER NKEY SEED-----',
      new TextDecoder().decode(user.getSeed()),
      '------END USER NKEY SEED------',
      '',
    ].join('\n'),
  };
}

type KeyPair = ReturnType<typeof nkeys.createUser>;

/** A JWT in the form of NATS. */
function sign(issuer: KeyPair, subject: KeyPair, nats: Record<string, unknown>): string {
  const encode = (value: object) => Buffer.from(JSON.stringify(value)).toString('base64url');
  const claims = {
    jti: randomUUID(),
    iat: Math.floor(Date.now() / 1000),
    iss: issuer.getPublicKey(),
    sub: subject.getPublicKey(),
    name: 'test',
    nats: { ...nats, version: 2 },
  };
  const text = `${encode({ typ: 'JWT', alg: 'ed25519-nkey' })}.${encode(claims)}`;
  return `${text}.${Buffer.from(issuer.sign(Buffer.from(text))).toString('base64url')}`;
}
