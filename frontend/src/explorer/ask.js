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
  let leave = null;
  try {
    while (response.ok && !(job = response.headers.get("X-Caseback-Job"))) {
      const about = await response.json();
      if (about.state === "failed") throw new Error(about.error);
      if (about.state === "canceled") throw new DOMException("canceled", "AbortError");
      if (!leave) {
        // at once, also where it is the page that goes away
        leave = () => fetch(`/api/jobs/${about.job}`, { method: "DELETE", keepalive: true }).catch(() => {});
        if (signal?.aborted) leave();
        else signal?.addEventListener("abort", leave, { once: true });
      }
      onProgress?.(about);
      await new Promise((resolve) => setTimeout(resolve, EVERY));
      if (signal?.aborted) throw new DOMException("canceled", "AbortError");
      response = await reached(`/api/jobs/${about.job}`);
    }
  } finally {
    signal?.removeEventListener("abort", leave);
  }
  if (!response.ok) throw new Error(await words(response));
  return { document: await response.json(), job };
}

/** An answer as its page draws it. */
export async function drawn(job) {
  const response = await reached(`/api/jobs/${job}/drawn`);
  if (!response.ok) throw new Error(await words(response));
  return response.json();
}
