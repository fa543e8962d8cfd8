import asyncio
import os

import tornado.web


class Answer(tornado.web.RequestHandler):
    async def get(self):
        await asyncio.sleep(int(self.get_argument("ms", "0")) / 1000)
        self.write(str(os.getpid()))


async def main():
    tornado.web.Application([("/.*", Answer)]).listen(int(os.environ["PORT"]), "127.0.0.1")
    await asyncio.Event().wait()


asyncio.run(main())
