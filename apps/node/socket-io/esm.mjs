import { Server } from 'socket.io';
import serve from './serve.cjs';

serve(Server);
