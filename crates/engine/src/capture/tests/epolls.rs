//! Sockets that programs ask their epoll instances about before they bind them, as Boost.Asio does.

use super::*;

/// Begins a script with a socket that two epoll instances know, in their own ways, before it is bound.
const KNOWN: &str = "\
import select, errno
def known(s):
    s.setblocking(False)
    edge, level = select.epoll(), select.epoll()
    edge.register(s.fileno(), select.EPOLLIN | select.EPOLLET)
    level.register(s.fileno(), select.EPOLLIN)
    return [edge, level]
def tells(epoll, s):
    for _ in range(3):
        if (s.fileno(), select.EPOLLIN) in epoll.poll(3): return True
    return False
";

const SECOND: WorkerId = WorkerId { app: AppId(1), number: 2 };

#[test]
fn what_a_program_asked_about_its_socket_is_told_of_ours() {
    let (desk, port) = (Desk::new(), free_port());
    let script = format!(
        "{KNOWN}\
         s = tcp(); epolls = known(s); s.bind(('127.0.0.1', {port})); s.listen()\n\
         c = tcp(); c.connect(('127.0.0.1', {port}))\n\
         print([tells(epoll, s) for epoll in epolls], bool(s.accept()), end=' ')\n\
         edge, level = epolls; edge.modify(s.fileno(), select.EPOLLOUT); level.unregister(s.fileno())\n\
         c = tcp(); c.connect(('127.0.0.1', {port}))\n\
         print(edge.poll(0.1), level.poll(0.1))\n"
    );
    for worker in [WORKER, SECOND] {
        // The second one gets the socket of the first, with a connection that waits.
        desk.slots.add(worker, Slot(0));
        assert_eq!(desk.run_as(worker, &script, &[]), "[True, True] True [] []");
        desk.slots.remove(worker);
    }
    assert_eq!(desk.slots.ports(), [port]);
}

#[test]
fn it_is_told_of_datagrams_too() {
    let (desk, port) = (Desk::new(), free_port());
    let script = format!(
        "{KNOWN}\
         s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); epolls = known(s); s.bind(('127.0.0.1', {port}))\n\
         socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'?', ('127.0.0.1', {port}))\n\
         print([tells(epoll, s) for epoll in epolls], s.recv(9))\n"
    );
    assert_eq!(desk.run(&script, &[CaptureAddress::UdpPort(port)]), "[True, True] b'?'");
}

#[test]
fn it_is_told_of_a_path_that_another_worker_has_bound() {
    let desk = Desk::new();
    let name = format!("worksong-epolls-{}", std::process::id());
    let script = format!(
        "{KNOWN}\
         s = socket.socket(socket.AF_UNIX); epolls = known(s); s.bind('\\0{name}'); s.listen()\n\
         c = socket.socket(socket.AF_UNIX); c.connect('\\0{name}')\n\
         print([tells(epoll, s) for epoll in epolls], bool(s.accept()))\n"
    );
    desk.slots.add(SECOND, Slot(1));
    for worker in [WORKER, SECOND] {
        let addresses = [CaptureAddress::Unix(format!("\0{name}").into())];
        assert_eq!(desk.run_as(worker, &script, &addresses), "[True, True] True");
    }
}
