use super::*;

const STATES: [State; 20] = [
    State::Standby,
    State::Promoting(Promotion::Direct),
    State::Promoting(Promotion::Offer),
    State::Promoting(Promotion::AddAddresses),
    State::Promoting(Promotion::MakeLocal),
    State::Promoting(Promotion::Announce),
    State::Promoting(Promotion::StartMaster),
    State::Promoting(Promotion::StopBackup),
    State::Active,
    State::Demoting(Demotion::RemoveAddresses),
    State::Demoting(Demotion::StartBackup),
    State::Demoting(Demotion::MakeForeign),
    State::Demoting(Demotion::StopMaster),
    State::Demoting(Demotion::StandBy),
    State::Faulted,
    State::Stopping(Leaving::StopSync),
    State::Stopping(Leaving::Resign),
    State::Stopping(Leaving::RemoveAddresses),
    State::Stopping(Leaving::StandBy),
    State::Stopped,
];

/// The steps of each way, in their documented order.
const UP: [Step; 7] = [
    Step::Direct,
    Step::Offer,
    Step::AddAddresses,
    Step::MakeLocal,
    Step::Announce,
    Step::StartMaster,
    Step::StopBackup,
];
const DOWN: [Step; 5] = [
    Step::RemoveAddresses,
    Step::StartBackup,
    Step::MakeForeign,
    Step::StopMaster,
    Step::StandBy,
];

/// Every (state, input) of a machine whose election last said Backup, and that has not failed yet.
#[test]
fn every_state_answers_every_input() {
    use Demotion::{MakeForeign, RemoveAddresses, StandBy, StartBackup, StopMaster};
    use Promotion::{AddAddresses, Announce, Direct, MakeLocal, Offer, StartMaster, StopBackup};
    use State::{Active, Demoting, Faulted, Promoting, Standby, Stopped, Stopping};
    let start = Promoting(Direct);
    let [offer, add, local, announce] = [Offer, AddAddresses, MakeLocal, Announce].map(Promoting);
    let [master, no_backup] = [StartMaster, StopBackup].map(Promoting);
    let down = Demoting(RemoveAddresses);
    let [backup, foreign] = [StartBackup, MakeForeign].map(Demoting);
    let [no_master, still] = [StopMaster, StandBy].map(Demoting);
    let stop = Stopping(Leaving::StopSync);
    let [resign, remove, stand_by] =
        [Leaving::Resign, Leaving::RemoveAddresses, Leaving::StandBy].map(Stopping);
    // state: Master, Backup, Fault, Done, Failed once, Lapsed, Lifted, Stop
    #[rustfmt::skip]
    let table: [[State; 8]; STATES.len()] = [
        /* Standby */ [start, Standby, Faulted, Standby, Standby, Standby, Standby, stop],
        /* Direct */ [start, down, down, offer, start, start, start, stop],
        // Of sync daemons a failure is no reason to stay.
        /* Offer */ [offer, down, down, add, add, down, offer, stop],
        /* AddAddresses */ [add, down, down, local, add, down, add, stop],
        /* MakeLocal */ [local, down, down, announce, local, down, local, stop],
        /* Announce */ [announce, down, down, master, announce, down, announce, stop],
        /* StartMaster */ [master, down, down, no_backup, no_backup, down, master, stop],
        /* StopBackup */ [no_backup, down, down, Active, Active, down, no_backup, stop],
        /* Active */ [Active, down, down, Active, Active, down, Active, stop],
        /* RemoveAddresses */ [down, down, down, backup, down, down, down, stop],
        /* StartBackup */ [backup, backup, backup, foreign, foreign, down, backup, stop],
        /* MakeForeign */
        [foreign, foreign, foreign, no_master, foreign, down, foreign, stop],
        /* StopMaster */ [no_master, no_master, no_master, still, still, down, no_master, stop],
        /* StandBy */ [still, still, still, Standby, still, down, still, stop],
        // One that was told Backup leaves as soon as it is asked to.
        /* Faulted */ [start, Standby, Faulted, Faulted, Faulted, Faulted, Standby, stop],
        /* StopSync */ [stop, stop, stop, resign, resign, stop, stop, stop],
        /* Resign */ [resign, resign, resign, remove, resign, resign, resign, resign],
        /* RemoveAddresses */ [remove, remove, remove, stand_by, remove, remove, remove, remove],
        /* StandBy */
        [stand_by, stand_by, stand_by, Stopped, stand_by, stand_by, stand_by, stand_by],
        /* Stopped */ [Stopped; 8],
    ];
    let inputs = [
        Input::Elected(Office::Master),
        Input::Elected(Office::Backup),
        Input::Elected(Office::Fault),
        Input::Done,
        Input::Failed,
        Input::Lapsed,
        Input::Lifted,
        Input::Stop,
    ];
    for (state, row) in STATES.into_iter().zip(table) {
        for (input, expected) in inputs.into_iter().zip(row) {
            let mut machine = in_state(state);
            let effect = machine.handle(input);
            assert_eq!(machine.state(), expected, "{state:?}, {input:?}");
            assert_eq!(effect, None, "{state:?}, {input:?}");
        }
    }
}

#[test]
fn what_an_earlier_life_left_behind_goes_before_anything_else() {
    let mut machine = Machine::default();
    assert!(!machine.may_direct());
    assert_eq!(machine.handle(Input::Elected(Office::Fault)), None);
    assert_eq!(run(&mut machine), DOWN);
    assert_eq!(machine.state(), State::Faulted);
    assert!(machine.may_direct());
    machine.handle(Input::Elected(Office::Backup));
    assert_eq!(machine.state(), State::Standby);
}

#[test]
fn promotion_and_demotion_take_their_steps_in_order() {
    let mut machine = in_state(State::Standby);
    machine.handle(Input::Elected(Office::Master));
    assert_eq!(run(&mut machine), UP);
    assert_eq!(machine.state(), State::Active);
    machine.handle(Input::Elected(Office::Backup));
    assert_eq!(run(&mut machine), DOWN);
    assert_eq!(machine.state(), State::Standby);
}

#[test]
fn a_clean_stop_takes_its_steps_in_order_wherever_it_starts() {
    for state in STATES {
        let mut machine = in_state(state);
        let stops = matches!(state, State::Stopping(_) | State::Stopped);
        machine.handle(Input::Stop);
        let steps = run(&mut machine);
        assert_eq!(machine.state(), State::Stopped);
        let whole = [
            Step::StopSync,
            Step::Resign,
            Step::RemoveAddresses,
            Step::StandBy,
        ];
        assert!(stops || steps == whole, "{state:?}: {steps:?}");
    }
}

/// Without a word of the election after it: what it said before may be long untrue.
#[test]
fn a_lease_that_lapsed_is_renewed_only_when_the_role_has_been_given_up() {
    for state in STATES {
        let has_role = in_state(state).needs_lease();
        let mut machine = in_state(state);
        machine.office = Office::Master;
        machine.handle(Input::Lapsed);
        assert_eq!(machine.may_direct(), !has_role, "{state:?}");
        if !has_role {
            assert_eq!(machine.state(), state);
            continue;
        }
        for step in DOWN {
            assert!(!machine.may_direct(), "{state:?}");
            assert_eq!(machine.step(), Some(step), "{state:?}");
            machine.handle(Input::Done);
        }
        assert!(machine.may_direct());
        assert_eq!(machine.state(), State::Standby);
        machine.handle(Input::Elected(Office::Master));
        assert_eq!(machine.state(), State::Promoting(Promotion::Direct));
    }
}

/// The election may answer before the role has been given up: the promotion that follows at once must
/// not be taken for one that the lapse is about.
#[test]
fn a_lapse_gives_a_role_up_once_however_soon_the_election_answers() {
    let mut machine = in_state(State::Active);
    machine.handle(Input::Lapsed);
    machine.handle(Input::Elected(Office::Master));
    for step in DOWN {
        assert_eq!(machine.step(), Some(step));
        machine.handle(Input::Done);
    }
    assert_eq!(machine.state(), State::Promoting(Promotion::Direct));
    // The lease has not been renewed so far.
    assert!(machine.may_direct() && !machine.needs_lease());
    machine.handle(Input::Lapsed);
    assert_eq!(run(&mut machine), UP);
    assert_eq!(machine.state(), State::Active);
}

/// What the driver hands in when mastership was lost between two looks.
#[test]
fn a_mastership_that_was_lost_and_won_meanwhile_is_taken_anew() {
    let mut machine = in_state(State::Active);
    machine.handle(Input::Elected(Office::Backup));
    machine.handle(Input::Elected(Office::Master));
    let steps = run(&mut machine);
    assert_eq!(steps.first(), Some(&Step::RemoveAddresses));
    assert_eq!(steps.last(), Some(&Step::StopBackup));
    assert_eq!(machine.state(), State::Active);
}

#[test]
fn a_promotion_that_fails_gives_up_and_demotes_itself() {
    for step in [
        Promotion::Direct,
        Promotion::AddAddresses,
        Promotion::MakeLocal,
        Promotion::Announce,
    ] {
        let mut machine = in_state(State::Promoting(step));
        machine.office = Office::Master;
        for _ in 1..ATTEMPTS_MAX {
            assert_eq!(machine.handle(Input::Failed), None);
            assert_eq!(machine.state(), State::Promoting(step));
        }
        let effect = machine.handle(Input::Failed);
        assert_eq!(effect, Some(Effect::GiveUp(step.step())));
        // The election has not heard of it yet.
        machine.handle(Input::Elected(Office::Master));
        run(&mut machine);
        assert_eq!(machine.state(), State::Faulted);
        machine.handle(Input::Elected(Office::Fault));
        assert_eq!(machine.state(), State::Faulted);
        machine.handle(Input::Elected(Office::Master));
        assert_eq!(machine.state(), State::Promoting(Promotion::Direct));
    }
}

#[test]
fn mastership_that_was_given_up_is_taken_again_when_the_fault_is_lifted() {
    let mut machine = in_state(State::Promoting(Promotion::AddAddresses));
    machine.office = Office::Master;
    fail(&mut machine, ATTEMPTS_MAX);
    run(&mut machine);
    assert_eq!(machine.state(), State::Faulted);
    machine.handle(Input::Lifted);
    assert_eq!(machine.state(), State::Promoting(Promotion::Direct));
}

#[test]
fn a_sync_daemon_that_does_not_start_keeps_no_role_back() {
    for step in [
        Promotion::Offer,
        Promotion::StartMaster,
        Promotion::StopBackup,
    ] {
        let mut machine = in_state(State::Promoting(step));
        assert_eq!(machine.handle(Input::Failed), None);
        assert_eq!(machine.step(), step.next().map(Promotion::step));
    }
    for step in [Demotion::StartBackup, Demotion::StopMaster] {
        let mut machine = in_state(State::Demoting(step));
        assert_eq!(machine.handle(Input::Failed), None);
        assert_eq!(machine.step(), step.next().map(Demotion::step));
    }
}

#[test]
fn addresses_that_cannot_be_removed_end_the_lease_and_are_tried_for_ever() {
    let mut machine = in_state(State::Demoting(Demotion::RemoveAddresses));
    assert_eq!(fail(&mut machine, ATTEMPTS_MAX - 1), [None; 2]);
    assert!(machine.may_direct());
    let effect = machine.handle(Input::Failed);
    assert_eq!(effect, Some(Effect::GiveUp(Step::RemoveAddresses)));
    assert!(machine.is_stuck() && !machine.may_direct());
    // Said once.
    assert_eq!(fail(&mut machine, 5), [None; 5]);
    assert_eq!(machine.step(), Some(Step::RemoveAddresses));
    machine.handle(Input::Elected(Office::Master));
    assert_eq!(machine.step(), Some(Step::RemoveAddresses));
    machine.handle(Input::Done);
    assert!(!machine.is_stuck());
    run(&mut machine);
    assert!(machine.may_direct());
    assert_eq!(machine.state(), State::Faulted);
}

#[test]
fn a_stop_ends_even_when_nothing_works() {
    let mut machine = in_state(State::Active);
    machine.handle(Input::Stop);
    let mut failures = 0;
    while machine.step().is_some() {
        assert_eq!(machine.handle(Input::Failed), None);
        failures += 1;
        assert!(failures < 100);
    }
    assert_eq!(machine.state(), State::Stopped);
}

#[test]
fn an_election_that_turns_round_during_a_demotion_is_followed_after_it() {
    let mut machine = in_state(State::Active);
    machine.handle(Input::Elected(Office::Backup));
    machine.handle(Input::Elected(Office::Master));
    assert_eq!(machine.step(), Some(Step::RemoveAddresses));
    for _ in DOWN {
        machine.handle(Input::Done);
    }
    assert_eq!(machine.state(), State::Promoting(Promotion::Direct));
}

/// Whatever happens, in whatever order: no role but one whose steps have all been done.
#[test]
fn no_sequence_of_inputs_leads_to_half_a_role() {
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    for _ in 0..2000 {
        let mut machine = Machine::default();
        // What is in place: active data plane, addresses, announced.
        let mut done = [false; 3];
        for _ in 0..60 {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let step = machine.step();
            let input = match random % 16 {
                0 => Input::Elected(Office::Master),
                1 => Input::Elected(Office::Backup),
                2 => Input::Elected(Office::Fault),
                3 => Input::Lifted,
                7 => Input::Lapsed,
                4..=6 => Input::Failed,
                _ => Input::Done,
            };
            if input == Input::Done {
                match step {
                    Some(Step::Direct) => done[0] = true,
                    Some(Step::AddAddresses) => done[1] = true,
                    Some(Step::Announce) => done[2] = true,
                    Some(Step::RemoveAddresses) => done[1..].fill(false),
                    Some(Step::StandBy) => done[0] = false,
                    Some(
                        Step::MakeForeign
                        | Step::MakeLocal
                        | Step::Offer
                        | Step::Resign
                        | Step::StartBackup
                        | Step::StartMaster
                        | Step::StopBackup
                        | Step::StopMaster
                        | Step::StopSync,
                    )
                    | None => {}
                }
            }
            machine.handle(input);
            match machine.state() {
                State::Active => assert_eq!(done, [true; 3]),
                State::Standby | State::Faulted => assert_eq!(done, [false; 3]),
                State::Promoting(_) | State::Demoting(_) | State::Stopping(_) | State::Stopped => {}
            }
        }
    }
}

/// What clients wait for is done for every router before what only the peer waits for, and routers that
/// stop take each step together.
#[test]
fn of_several_routers_the_one_that_clients_wait_for_comes_first() {
    let urgency = |state| in_state(state).urgency();
    let before = |first, second| assert!(urgency(first) < urgency(second), "{first:?} {second:?}");
    for promotion in [
        Promotion::Direct,
        Promotion::AddAddresses,
        Promotion::Announce,
    ] {
        before(
            State::Promoting(promotion),
            State::Promoting(Promotion::StartMaster),
        );
        before(
            State::Promoting(promotion),
            State::Demoting(Demotion::StopMaster),
        );
    }
    before(
        State::Demoting(Demotion::RemoveAddresses),
        State::Promoting(Promotion::StopBackup),
    );
    let leaving = [
        Leaving::StopSync,
        Leaving::Resign,
        Leaving::RemoveAddresses,
        Leaving::StandBy,
    ];
    for pair in leaving.windows(2) {
        before(State::Stopping(pair[0]), State::Stopping(pair[1]));
    }
    for state in STATES {
        let is_due = in_state(state).step().is_some();
        assert_eq!(urgency(state).is_some(), is_due, "{state:?}");
    }
}

/// At rest or at a step, as if it had got there without a failure; the election said Backup.
fn in_state(state: State) -> Machine {
    Machine {
        state,
        office: Office::Backup,
        failures: 0,
        declines: false,
        clean: true,
    }
}

/// Does every step that is due; their names.
fn run(machine: &mut Machine) -> Vec<Step> {
    let mut steps = Vec::new();
    while let Some(step) = machine.step() {
        steps.push(step);
        assert!(steps.len() < 20);
        machine.handle(Input::Done);
    }
    steps
}

fn fail(machine: &mut Machine, times: u32) -> Vec<Option<Effect>> {
    (0..times).map(|_| machine.handle(Input::Failed)).collect()
}
