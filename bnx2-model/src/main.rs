// SPDX-License-Identifier: MIT OR Apache-2.0
//! The command line: NICs for QEMU, a client for their control socket, and
//! firmware for their driver.

use bnx2_model::config_space::Layout;
use bnx2_model::device::{Device, Settings, SMALLEST_BAR};
use bnx2_model::mac::MacAddress;
use bnx2_model::nic::Nic;
use bnx2_model::service::Service;
use bnx2_model::transport::{self, VfioHost};
use bnx2_model::wire::{Endpoint, Wire};
use bnx2_model::{control, firmware};
use clap::{Args, Parser, Subcommand};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, OnceLock};

/// A BCM5709 (NetXtreme II, driver bnx2) for QEMU's vfio-user-pci
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Two NICs back to back, called nic0 and nic1
    Pair {
        /// Where QEMU finds the first NIC
        socket: PathBuf,
        /// Where QEMU finds the second NIC
        peer: PathBuf,
        /// Address of the first NIC
        #[arg(long, default_value = "02:00:00:57:09:01")]
        mac: MacAddress,
        /// Address of the second NIC
        #[arg(long, default_value = "02:00:00:57:09:02")]
        peer_mac: MacAddress,
        #[command(flatten)]
        common: Common,
    },
    /// One NIC, called nic0
    Nic {
        /// Where QEMU finds it
        socket: PathBuf,
        /// What its cable leads to: connect:PATH or listen:PATH (a UNIX stream as
        /// QEMU's -netdev stream has it), tap:NAME, or none
        #[arg(long, default_value = "none")]
        wire: Endpoint,
        /// Its address
        #[arg(long, default_value = "02:00:00:57:09:01")]
        mac: MacAddress,
        #[command(flatten)]
        common: Common,
    },
    /// Send a line to a control socket, and print the answer
    #[command(after_help = control::COMMANDS)]
    Control {
        /// The socket
        socket: PathBuf,
        /// The line
        #[arg(required = true, trailing_var_arg = true)]
        command: Vec<String>,
    },
    /// Write firmware that does nothing, as the driver wants some
    Firmware {
        /// What is to become /lib/firmware
        directory: PathBuf,
    },
}

#[derive(Args)]
struct Common {
    /// Where to listen for `control`
    #[arg(long)]
    control: Option<PathBuf>,
    /// Have an MSI-X capability, which the driver uses with more than one CPU
    #[arg(long)]
    msix: bool,
    /// Size of BAR 0 in bytes, a power of two
    #[arg(long, default_value_t = 32 << 20, value_parser = bar_size)]
    bar_size: u32,
    /// Bytes of frames that wait for receive buffers at most
    #[arg(long, default_value_t = 1 << 20)]
    fifo: usize,
}

fn bar_size(text: &str) -> Result<u32, String> {
    let size: u32 = text.parse().map_err(|_| "not a number".to_owned())?;
    if !size.is_power_of_two() {
        Err("not a power of two".into())
    } else if size < SMALLEST_BAR {
        Err(format!(
            "the driver crashes if BAR 0 is smaller than {SMALLEST_BAR}"
        ))
    } else {
        Ok(size)
    }
}

/// A NIC that is to be made.
struct Plan {
    socket: PathBuf,
    mac: MacAddress,
    /// None for the other NIC of a pair.
    wire: Option<Endpoint>,
}

/// Sockets that were made, and are to go with us.
#[derive(Default)]
struct Sockets(Vec<PathBuf>);

impl Drop for Sockets {
    fn drop(&mut self) {
        for path in &self.0 {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Makes the NICs and serves them. Returns when a signal has come.
fn run(plans: Vec<Plan>, common: &Common) -> Result<(), String> {
    let service = Service::new().map_err(|error| format!("epoll: {error}"))?;
    let mut sockets = Sockets::default();
    let mut endpoints = Vec::new();
    let mut nics = Vec::new();
    for (number, plan) in plans.into_iter().enumerate() {
        let layout = Layout {
            bar_size: common.bar_size,
            msix: common.msix,
        };
        let settings = Settings {
            mac: plan.mac,
            layout,
            fifo: common.fifo,
        };
        let bell = service
            .bell(number)
            .map_err(|error| format!("epoll: {error}"))?;
        let wire = match &plan.wire {
            None => Wire::Peer(OnceLock::new()),
            Some(endpoint) => Wire::open(endpoint, &bell.registry, service.wire_token(number))
                .map_err(|error| format!("{endpoint:?}: {error}"))?,
        };
        sockets.0.extend(wire.listens_at().map(Into::into));
        endpoints.push(transport::Endpoint::bind(
            &plan.socket,
            common.bar_size,
            common.msix,
        )?);
        sockets.0.push(plan.socket.clone());
        let device = Device::new(VfioHost::default(), settings);
        let name = format!("nic{number}");
        nics.push(Arc::new(Nic::new(name, plan.socket, device, wire, bell)));
    }
    if let [first, second] = &nics[..] {
        for (nic, peer) in [(first, second), (second, first)] {
            if let Wire::Peer(place) = &nic.wire {
                let _ = place.set(Arc::downgrade(peer));
            }
        }
    }
    let listener = common.control.as_deref().map(control::bind).transpose()?;
    sockets.0.extend(common.control.clone());
    let mut signals = Signals::new([SIGHUP, SIGINT, SIGTERM])
        .map_err(|error| format!("signal handlers: {error}"))?;

    for (endpoint, nic) in endpoints.into_iter().zip(&nics) {
        let nic = Arc::clone(nic);
        std::thread::spawn(move || endpoint.serve(nic));
    }
    let nics: Arc<[_]> = nics.into();
    if let Some(listener) = listener {
        let nics = Arc::clone(&nics);
        std::thread::spawn(move || control::serve(&listener, &nics));
    }
    std::thread::spawn(move || service.run(&nics));

    // Whoever starts us may wait for this line: all sockets are there.
    let mut output = std::io::stdout();
    let _ = writeln!(output, "ready").and_then(|()| output.flush());
    let signal = signals.forever().next();
    log::info!("signal {signal:?}");
    Ok(())
}

fn act(command: Command) -> Result<(), String> {
    match command {
        Command::Pair {
            socket,
            peer,
            mac,
            peer_mac,
            common,
        } => {
            if mac == peer_mac {
                return Err(format!("both NICs would be {mac}"));
            }
            let plan = |socket, mac| Plan {
                socket,
                mac,
                wire: None,
            };
            run(vec![plan(socket, mac), plan(peer, peer_mac)], &common)
        }
        Command::Nic {
            socket,
            wire,
            mac,
            common,
        } => run(
            vec![Plan {
                socket,
                mac,
                wire: Some(wire),
            }],
            &common,
        ),
        Command::Control { socket, command } => {
            let answer = control::ask(&socket, &command.join(" "))?;
            println!("{answer}");
            Ok(())
        }
        Command::Firmware { directory } => {
            firmware::write(&directory).map_err(|error| format!("{}: {error}", directory.display()))
        }
    }
}

fn main() -> ExitCode {
    env_logger::Builder::from_env(
        env_logger::Env::default().default_filter_or("info,vfio_user=warn"),
    )
    .init();
    match act(Arguments::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bnx2-model: {error}");
            ExitCode::FAILURE
        }
    }
}
