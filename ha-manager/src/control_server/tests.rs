use std::sync::atomic::{AtomicU32, Ordering};

use ipvs_control::{Client, ClientError, ConnectionPage, Info};
use ipvs_model::entry::ConnEntry;
use ipvs_model::flags::ConnFlags;
use tokio::io::{DuplexStream, duplex};
use tokio::time::Instant;

use super::*;

const INFO: Info = Info {
    version: 0x01_02_01,
    conn_table_size: 256,
};

#[tokio::test(start_paused = true)]
async fn requests_are_answered_in_order_until_the_client_closes() {
    let (mut client, served) = connect_client();
    for _ in 0..3 {
        assert_eq!(call(&mut client, &Request::Info).await, Reply::Info(INFO));
    }
    drop(client);
    assert!(matches!(served.await.unwrap(), ClientEnd::Closed));
}

#[tokio::test(start_paused = true)]
async fn a_length_above_the_limit_is_refused_before_anything_is_kept() {
    for length in [u32::MAX, (64 << 10) + 1] {
        let (mut client, served) = connect_client();
        client.write_all(&length.to_le_bytes()).await.unwrap();
        let Reply::BadRequest(reason) = read_reply(&mut client).await else {
            panic!("refusal")
        };
        assert!(reason.contains(&length.to_string()), "{reason}");
        assert!(matches!(
            served.await.unwrap(),
            ClientEnd::Refused(FrameError::TooLong(_))
        ));
        assert_eq!(client.read(&mut [0]).await.unwrap(), 0, "closed");
    }
}

#[tokio::test(start_paused = true)]
async fn garbage_and_trailing_bytes_are_refused() {
    let mut trailing = ipvs_control::encode(&Request::Info).unwrap();
    trailing.push(0);
    trailing[0] += 1;
    for frame in [
        vec![4, 0, 0, 0, 0xff, 0xff, 0xff, 0xff],
        vec![0, 0, 0, 0],
        trailing,
    ] {
        let (mut client, served) = connect_client();
        client.write_all(&frame).await.unwrap();
        assert!(matches!(
            read_reply(&mut client).await,
            Reply::BadRequest(_)
        ));
        assert!(matches!(served.await.unwrap(), ClientEnd::Refused(_)));
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_cut_anywhere_ends_the_connection() {
    let frame = ipvs_control::encode(&Request::Proc {
        name: "ip_vs".into(),
    })
    .unwrap();
    for end in 1..frame.len() {
        let (mut client, served) = connect_client();
        client.write_all(&frame[..end]).await.unwrap();
        drop(client);
        assert!(
            matches!(served.await.unwrap(), ClientEnd::Io(_)),
            "cut at {end}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_stalls_inside_a_request_is_dropped_in_time() {
    let (mut client, served) = connect_client();
    let start = Instant::now();
    client.write_all(&[5, 0]).await.unwrap();
    assert!(matches!(served.await.unwrap(), ClientEnd::TooSlow));
    assert_eq!(start.elapsed(), Limits::default().frame);
}

#[tokio::test(start_paused = true)]
async fn dripping_bytes_do_not_extend_the_time_for_a_request() {
    let (mut client, served) = connect_client();
    let start = Instant::now();
    client.write_all(&60_000u32.to_le_bytes()).await.unwrap();
    while client.write_all(&[0]).await.is_ok() {
        sleep(Duration::from_secs(1)).await;
    }
    assert!(matches!(served.await.unwrap(), ClientEnd::TooSlow));
    assert!(start.elapsed() <= Limits::default().frame + Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_read_its_reply_is_dropped_in_time() {
    let (mut client, served) = connect_client();
    let start = Instant::now();
    let frame = ipvs_control::encode(&Request::Status { json: false }).unwrap();
    client.write_all(&frame).await.unwrap();
    assert!(matches!(served.await.unwrap(), ClientEnd::TooSlow));
    assert_eq!(start.elapsed(), Limits::default().frame);
}

#[tokio::test(start_paused = true)]
async fn an_idle_client_is_dropped_in_time() {
    let (_client, served) = connect_client();
    let start = Instant::now();
    assert!(matches!(served.await.unwrap(), ClientEnd::Idle));
    assert_eq!(start.elapsed(), Limits::default().idle);
}

#[tokio::test(start_paused = true)]
async fn an_owner_that_is_gone_is_said_so() {
    let (owner, commands) = mpsc::channel(1);
    drop(commands);
    let reply = ask(Request::Info, &owner).await;
    assert_eq!(
        reply,
        Reply::BadRequest("the director is stopping".to_owned())
    );
}

#[tokio::test(start_paused = true)]
async fn connections_are_printed_over_all_pages() {
    let (mut client, _served) = connect_client();
    let request = Request::Proc {
        name: "ip_vs_conn".into(),
    };
    let Reply::Text(text) = call(&mut client, &request).await else {
        panic!("text")
    };
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 4, "{text}");
    assert_eq!(lines[0], ConnFile::IpVsConn.header().trim_end());
    assert!(lines[3].ends_with(" 3"), "{text}");
}

#[tokio::test]
async fn one_client_too_many_is_told_so_and_a_slot_is_given_back() {
    let dir = Scratch::new();
    let socket = ControlSocket::claim(&dir.socket()).unwrap();
    let (stop, stopped) = watch::channel(false);
    let limits = Limits {
        clients: 2,
        ..Limits::default()
    };
    let server = tokio::spawn(serve(
        socket.listener().unwrap(),
        fake_owner(),
        limits,
        stopped,
    ));

    let mut held = Vec::new();
    for _ in 0..2 {
        let mut client = UnixStream::connect(dir.socket()).await.unwrap();
        assert_eq!(call(&mut client, &Request::Info).await, Reply::Info(INFO));
        held.push(client);
    }
    let mut third = UnixStream::connect(dir.socket()).await.unwrap();
    let Reply::BadRequest(reason) = read_reply(&mut third).await else {
        panic!("refusal")
    };
    assert!(reason.starts_with("2 clients are connected"), "{reason}");

    held.pop();
    // The slot comes back when the server has seen the close: retry, do not sleep.
    loop {
        let mut client = UnixStream::connect(dir.socket()).await.unwrap();
        // Writing may fail when the client is turned away.
        let _ = client
            .write_all(&ipvs_control::encode(&Request::Info).unwrap())
            .await;
        if read_reply(&mut client).await == Reply::Info(INFO) {
            break;
        }
    }
    stop.send(true).unwrap();
    server.await.unwrap();
}

#[tokio::test]
async fn the_blocking_client_works_against_the_server() {
    let dir = Scratch::new();
    let socket = ControlSocket::claim(&dir.socket()).unwrap();
    let (stop, stopped) = watch::channel(false);
    let listener = socket.listener().unwrap();
    let server = tokio::spawn(serve(listener, fake_owner(), Limits::default(), stopped));
    let path = dir.socket();
    let asked = tokio::task::spawn_blocking(move || {
        Client::connect(&path)
            .unwrap()
            .call(&Request::Info)
            .unwrap()
    });
    assert_eq!(asked.await.unwrap(), Reply::Info(INFO));
    stop.send(true).unwrap();
    server.await.unwrap();
}

#[test]
fn the_socket_is_private_and_removed_at_the_end() {
    let dir = Scratch::new();
    let socket = ControlSocket::claim(&dir.socket()).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&dir.socket()), 0o600);
    assert_eq!(mode(dir.socket().parent().unwrap()), 0o700);
    drop(socket);
    assert!(!dir.socket().exists());
    assert!(matches!(
        Client::connect(&dir.socket()),
        Err(ClientError::Connect { .. })
    ));
}

#[test]
fn a_second_director_is_refused_and_a_stale_socket_replaced() {
    let dir = Scratch::new();
    let first = ControlSocket::claim(&dir.socket()).unwrap();
    let refused = ControlSocket::claim(&dir.socket()).unwrap_err();
    assert_eq!(
        refused.to_string(),
        format!("another directord answers at {}", dir.socket().display())
    );
    drop(first);

    drop(StdListener::bind(dir.socket()).unwrap());
    assert!(dir.socket().exists(), "stale");
    drop(ControlSocket::claim(&dir.socket()).unwrap());
}

#[test]
fn a_socket_that_was_replaced_is_not_removed() {
    let dir = Scratch::new();
    let socket = ControlSocket::claim(&dir.socket()).unwrap();
    fs::remove_file(dir.socket()).unwrap();
    let other = StdListener::bind(dir.socket()).unwrap();
    drop(socket);
    assert!(dir.socket().exists());
    drop(other);
}

#[test]
fn a_file_in_the_place_of_the_socket_is_left_alone() {
    let dir = Scratch::new();
    fs::create_dir_all(dir.socket().parent().unwrap()).unwrap();
    fs::write(dir.socket(), "precious").unwrap();
    assert!(matches!(
        ControlSocket::claim(&dir.socket()),
        Err(ControlError::NotASocket(_))
    ));
    assert_eq!(fs::read_to_string(dir.socket()).unwrap(), "precious");
}

#[test]
fn a_director_that_is_starting_is_not_overtaken() {
    let dir = Scratch::new();
    let parent = dir.socket().parent().unwrap().to_owned();
    fs::create_dir_all(&parent).unwrap();
    let lock = Flock::lock(File::open(parent).unwrap(), FlockArg::LockExclusive).unwrap();
    assert!(matches!(
        ControlSocket::claim(&dir.socket()),
        Err(ControlError::Starting(_))
    ));
    drop(lock);
}

/// A client end and the task that serves its other end, before a fake owner.
fn connect_client() -> (DuplexStream, tokio::task::JoinHandle<ClientEnd>) {
    let (client, server) = duplex(1024);
    let owner = fake_owner();
    let served = tokio::spawn(async move {
        // Kept open: nobody stops this server.
        let (_stop, stopped) = watch::channel(false);
        serve_client(server, &owner, Limits::default(), stopped).await
    });
    (client, served)
}

/// Answers `Info`, three pages of connections, and a long text to everything else.
fn fake_owner() -> mpsc::Sender<Command> {
    let (owner, mut commands) = mpsc::channel(4);
    tokio::spawn(async move {
        while let Some(command) = commands.recv().await {
            let Command::Request { request, reply } = command else {
                continue;
            };
            let answer = if request == Request::Info {
                Reply::Info(INFO)
            } else if let Request::ListConnections { cursor } = request {
                Reply::Connections(page(cursor))
            } else {
                Reply::Text("x".repeat(1 << 20))
            };
            let _ = reply.send(answer);
        }
    });
    owner
}

fn page(cursor: u64) -> ConnectionPage {
    let any = "192.0.2.1:80".parse().unwrap();
    let entry = ConnEntry {
        protocol: 6,
        client: any,
        virt: any,
        dest: any,
        flags: ConnFlags(0),
        state: 1,
        expires_secs: u32::try_from(cursor).unwrap() + 1,
        in_pkts: 0,
        controls: 0,
        fwmark: 0,
        bound: true,
        pe: None,
    };
    ConnectionPage {
        entries: vec![entry],
        next: (cursor < 2).then_some(cursor + 1),
    }
}

async fn call<S: AsyncRead + AsyncWrite + Unpin>(client: &mut S, request: &Request) -> Reply {
    client
        .write_all(&ipvs_control::encode(request).unwrap())
        .await
        .unwrap();
    read_reply(client).await
}

async fn read_reply<S: AsyncRead + Unpin>(client: &mut S) -> Reply {
    let length = client.read_u32_le().await.unwrap();
    let mut body = vec![0; length as usize];
    client.read_exact(&mut body).await.unwrap();
    ipvs_control::decode(&body).unwrap()
}

/// A directory of its own, removed at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Scratch {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("directord-test-{}-{count}", std::process::id());
        let dir = std::env::temp_dir().join(name);
        fs::create_dir_all(&dir).unwrap();
        Scratch(dir)
    }

    fn socket(&self) -> PathBuf {
        self.0.join("run").join("control.sock")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
