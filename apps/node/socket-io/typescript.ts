import { Server, type Socket } from 'socket.io';
import serve from './serve.cjs';

type Serve = (server: typeof Server, socket?: Socket) => void;
(serve as Serve)(Server);
