/** An environment variable has a value that cannot be used. The message names the variable and says what is allowed. */
export class ConfigError extends Error {
  override name = 'ConfigError';
}
