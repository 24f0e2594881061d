//! Exports that are opened when somebody asks for them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use block::{BlockError, ErrorKind, Result};
use export::nbd::{Catalogue, Export, Server, ServerOptions};
use flow::events::{Event, Events};
use io::{Address, LocalFut, World};
use nbd::handshake::client::{ClientHandshake, Outcome};
use sim::Options;

use crate::lab::client::{Answer, Client, connect, shake_hands, wish};
use crate::lab::stage::{options, view};
use crate::lab::store::{Mood, Store, StoreNode};
use crate::play;
use crate::sessions::{named, option, receive, reply};

const GO: u32 = 7;
const ERR_UNKNOWN: u32 = (1 << 31) + 6;

/// Opens "disk-N", slowly; "broken" cannot be opened, anything else is not there.
#[derive(Default)]
struct Shelf {
    opened: AtomicUsize,
}

impl Catalogue for Shelf {
    fn open<'a>(&'a self, name: &'a str) -> LocalFut<'a, Result<Option<Arc<Export>>>> {
        Box::pin(async move {
            io::sleep(Duration::from_millis(20)).await;
            self.opened.fetch_add(1, SeqCst);
            if name == "broken" {
                return Err(BlockError::new(ErrorKind::Corrupt, "'broken' is damaged"));
            }
            let Some(number) = name.strip_prefix("disk-").and_then(|n| n.parse().ok()) else {
                return Ok(None);
            };
            let node = Arc::new(StoreNode(Store::new(vec![number; 10_000], Mood::PROMPT)));
            let domain = Arc::new(flow::guard::Domain::default());
            let root = flow::Root::new(view(node, &domain), domain);
            Ok(Some(Export::new(options(name), Arc::new(root))))
        })
    }

    fn list(&self) -> LocalFut<'_, Vec<(String, String)>> {
        Box::pin(async {
            io::sleep(Duration::from_millis(20)).await;
            [1, 2].map(|number| (format!("disk-{number}"), String::new())).into()
        })
    }
}

#[test]
fn what_a_client_asks_for_is_opened_then() {
    play(1, Options::default(), 2, async |stage| {
        let (shelf, events) = (Arc::new(Shelf::default()), Events::default());
        let mut told = events.subscribe();
        let catalogue: Arc<dyn Catalogue> = shelf.clone();
        let threads = stage.threads.clone();
        let server = Arc::new(Server::with_catalogue(ServerOptions::default(), threads, events, catalogue));
        let address = Address::Tcp { host: "shelf".to_owned(), port: 10809 };
        let listener = stage.world.listen(&address).unwrap();
        let listening = server.clone();
        io::spawn(async move {
            let _ = listening.listen(listener).await;
        });
        let stream = connect(&stage.world, &address).await;
        let (outcome, _) = shake_hands(&*stream, ClientHandshake::list()).await;
        let Outcome::Listed(listed) = outcome else { panic!("{outcome:?}") };
        let names: Vec<_> = listed.iter().map(|listed| listed.name.as_str()).collect();
        assert_eq!(names, ["disk-1", "disk-2"]);
        // A client asks for contexts and for the export; that is one look.
        let before = shelf.opened.load(SeqCst);
        for number in [1, 7] {
            let mut client = Client::connect(&stage.world, &address, wish(&format!("disk-{number}"))).await;
            assert_eq!(client.read(5, 3).await, Answer::Done(vec![number; 3]));
        }
        assert_eq!(shelf.opened.load(SeqCst) - before, 2);
        for name in ["nothing", "broken"] {
            let stream = connect(&stage.world, &address).await;
            receive(&*stream, 18).await;
            let go = option(GO, &[&named(name)[..], &[0, 0]].concat());
            stream.send_all(&[&[0, 0, 0, 3], &go[..]].concat()).await.unwrap();
            assert_eq!(reply(&*stream).await, (GO, ERR_UNKNOWN), "{name}");
        }
        let failures = std::iter::from_fn(|| told.try_next());
        let failures: Vec<_> = failures.filter(|e| matches!(e, Event::RequestFailed { .. })).collect();
        assert_eq!(failures, [Event::RequestFailed { error: "'broken' is damaged".to_owned() }]);
    });
}
