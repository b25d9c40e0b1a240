// Questions to the server. A quick one is answered at once; of any other there is a job, which is watched until it ends.

const EVERY = 300;

async function words(response) {
  const body = await response.json().catch(() => null);
  return body?.error ?? `the server answered ${response.status}`;
}

async function reached(address, options) {
  try {
    return await fetch(address, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("the server does not answer: is `caseback serve` still running?");
  }
}

/** Asks, and gives {document, job}. `onProgress` hears {job, state, what, n, total} while a job runs; `signal` cancels it. */
export async function ask(name, form, { signal, onProgress } = {}) {
  let response = await reached(`/api/ask/${name}`, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(form),
    signal,
  });
  let job = response.headers.get("X-Caseback-Job");
  while (response.ok && !(job = response.headers.get("X-Caseback-Job"))) {
    const about = await response.json();
    if (about.state === "failed") throw new Error(about.error);
    if (about.state === "canceled") throw new DOMException("canceled", "AbortError");
    onProgress?.(about);
    await new Promise((resolve) => setTimeout(resolve, EVERY));
    if (signal?.aborted) {
      await reached(`/api/jobs/${about.job}`, { method: "DELETE" });
      throw new DOMException("canceled", "AbortError");
    }
    response = await reached(`/api/jobs/${about.job}`);
  }
  if (!response.ok) throw new Error(await words(response));
  return { document: await response.json(), job };
}
