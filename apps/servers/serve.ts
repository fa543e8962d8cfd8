// The same server for Deno and Bun.
const runtime = globalThis as any;
const options = { hostname: '127.0.0.1', port: Number(runtime.process.env.PORT) };

async function answer(request: Request): Promise<Response> {
  const milliseconds = Number(new URL(request.url).searchParams.get('ms'));
  await new Promise((resolve) => setTimeout(resolve, milliseconds));
  return new Response(String(runtime.process.pid));
}

if (runtime.Deno) runtime.Deno.serve(options, answer);
else runtime.Bun.serve({ ...options, fetch: answer });
