import { readFile } from "node:fs/promises";
import { AwsClient } from "aws4fetch";
import { environmentVariable } from "../../core/platform/environment.ts";
import { firstLine } from "../../core/platform/files.ts";
import { storeError } from "./store.ts";

/** Keys are renewed so long before they end: a large file that is on its way shall arrive. */
const early = 5 * 60_000;

/**
 * What signs requests to S3: with the keys of `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY` and `AWS_SESSION_TOKEN`, or with those of
 * the role that ECS or EKS gives the container, which are asked for when they are needed and again before they end.
 * @param what for whom, in messages
 * @throws KilnError where neither is there.
 */
export function awsSigner(region: string, what: string): () => Promise<AwsClient> {
  const client = (accessKeyId: string, secretAccessKey: string, sessionToken?: string) =>
    new AwsClient({
      ...{ accessKeyId, secretAccessKey, region, service: "s3", retries: 3 },
      ...(sessionToken && { sessionToken }),
    });
  const id = environmentVariable("AWS_ACCESS_KEY_ID");
  const secret = environmentVariable("AWS_SECRET_ACCESS_KEY");
  if (id && secret) {
    const fixed = client(id, secret, environmentVariable("AWS_SESSION_TOKEN"));
    return async () => fixed;
  }
  const relative = environmentVariable("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI");
  // The address at which ECS answers the containers of a task.
  const url = relative
    ? `http://169.254.170.2${relative}`
    : environmentVariable("AWS_CONTAINER_CREDENTIALS_FULL_URI");
  if (!url)
    throw storeError(
      "refused",
      `${what} needs AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a container's role`,
    );
  let current: Promise<{ readonly signer: AwsClient; readonly until: number }> | null = null;
  const renewed = () => {
    const asked = roleKeys(url, what).then((keys) => ({
      signer: client(keys.AccessKeyId, keys.SecretAccessKey, keys.Token),
      until: Date.parse(keys.Expiration),
    }));
    // After a failure the next request asks anew.
    asked.catch(() => {
      current = null;
    });
    current = asked;
    return asked;
  };
  return async () => {
    const known = await (current ?? renewed());
    return (Date.now() < known.until - early ? known : await renewed()).signer;
  };
}

interface RoleKeys {
  readonly AccessKeyId: string;
  readonly SecretAccessKey: string;
  readonly Token: string;
  readonly Expiration: string;
}

/** The keys of the container's role, as ECS and EKS give them. @throws KilnError. */
async function roleKeys(url: string, what: string): Promise<RoleKeys> {
  const file = environmentVariable("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE");
  const lost = (why: string, cause?: unknown) =>
    storeError(
      "refused",
      `${what}: the keys of the container's role cannot be had from ${url}: ${why}`,
      cause,
    );
  try {
    const token = file
      ? (await readFile(file, "utf8")).trim()
      : environmentVariable("AWS_CONTAINER_AUTHORIZATION_TOKEN");
    const response = await fetch(url, {
      headers: token ? { authorization: token } : {},
      signal: AbortSignal.timeout(10_000),
    });
    const keys = (await response.json()) as Partial<RoleKeys>;
    if (keys.AccessKeyId && keys.SecretAccessKey && keys.Token && Date.parse(keys.Expiration ?? "") > 0)
      return keys as RoleKeys;
    throw new Error(`answer ${response.status} without keys; check the task's role`);
  } catch (error) {
    throw lost(firstLine((error as Error).cause ?? error), error);
  }
}
