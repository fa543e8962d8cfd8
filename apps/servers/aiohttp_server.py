import asyncio
import os

from aiohttp import web


async def answer(request):
    await asyncio.sleep(int(request.query.get("ms", "0")) / 1000)
    return web.Response(text=str(os.getpid()))


app = web.Application()
app.router.add_get("/{path:.*}", answer)
web.run_app(app, host="127.0.0.1", port=int(os.environ["PORT"]), print=None)
