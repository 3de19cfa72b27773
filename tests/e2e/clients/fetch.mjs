// GET the URL of the first argument with Node's fetch. By NODE_USE_ENV_PROXY (Node 22.21, 24.0) where Node knows it; the
// second argument, if any, is the directory of an undici whose EnvHttpProxyAgent is asked otherwise.
import { createRequire } from "node:module";

const [url, undici] = process.argv.slice(2);
let fetch = globalThis.fetch;
if (undici) {
  const { EnvHttpProxyAgent, fetch: its, setGlobalDispatcher } = createRequire(import.meta.url)(undici);
  setGlobalDispatcher(new EnvHttpProxyAgent());
  fetch = its;
}
try {
  const response = await fetch(url);
  process.stdout.write(await response.text());
} catch (error) {
  for (let each = error; each; each = each.cause) console.error(String(each));
  process.exitCode = 1;
}
