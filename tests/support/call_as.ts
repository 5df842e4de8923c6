/** Calls a server as one of its users: a body is JSON, or a form as it is. */
export const callAs =
  (url: () => string, tokens: Readonly<Record<string, string>>) =>
  (user: string, method: string, target: string, body?: FormData | object): Promise<Response> =>
    fetch(`${url()}${target}`, {
      method,
      headers: {
        authorization: `Bearer ${tokens[user]}`,
        ...(body !== undefined && !(body instanceof FormData) && { "content-type": "application/json" }),
      },
      body: body === undefined || body instanceof FormData ? body : JSON.stringify(body),
    });
