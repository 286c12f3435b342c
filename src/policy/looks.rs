//! What the view `stats` counts. The guard takes a *look* at a row, a table, a plan, a command or a setting; each look asks
//! some rules, one after the other, and ends with the first that is broken.
//!
//! Looks are counted where they are taken, by what they looked at; what came of a broken rule, where that is decided. So the
//! row path counts one number, whatever the number of rules.

use super::backend::Trust;
use super::rules::Rule;

/// Something that the guard looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// A version of a row of a tenant table: an UPDATE that leaves the tenant alone counts one.
    Row,
    /// The same for an unproven backend.
    UnprovenRow,
    /// A row that counts towards a limit.
    LimitedRow,
    /// The same, reached by a foreign key.
    CascadedRow,
    /// A guarded table that a statement writes.
    Table,
    /// A table that a statement of an unproven backend writes.
    UnprovenTable,
    /// The same of a global table.
    UnprovenGlobal,
    /// The plan of an UPDATE or DELETE of an unproven backend.
    Plan,
    /// A command that isn't about rows.
    Command,
    /// The same by an unproven backend.
    UnprovenCommand,
    /// A value that is proposed for a setting.
    Setting,
}

impl Look {
    /// How many there are.
    pub const COUNT: usize = Look::ALL.len();

    /// All of them, in the order of their numbers.
    pub const ALL: [Look; 11] = [
        Look::Row,
        Look::UnprovenRow,
        Look::LimitedRow,
        Look::CascadedRow,
        Look::Table,
        Look::UnprovenTable,
        Look::UnprovenGlobal,
        Look::Plan,
        Look::Command,
        Look::UnprovenCommand,
        Look::Setting,
    ];

    /// At a row of a tenant table.
    pub fn at_row(trust: Option<Trust>) -> Look {
        if trust == Some(Trust::Unproven) { Look::UnprovenRow } else { Look::Row }
    }

    /// At a row that is limited.
    pub fn at_limited_row(cascaded: bool) -> Look {
        if cascaded { Look::CascadedRow } else { Look::LimitedRow }
    }

    /// At a table that a statement writes.
    pub fn at_table(trust: Option<Trust>, global: bool) -> Look {
        match trust {
            None | Some(Trust::Proven) => Look::Table,
            Some(_) if global => Look::UnprovenGlobal,
            Some(_) => Look::UnprovenTable,
        }
    }

    /// At a command.
    pub fn at_command(trust: Option<Trust>) -> Look {
        if matches!(trust, None | Some(Trust::Proven)) { Look::Command } else { Look::UnprovenCommand }
    }

    /// The rules that it asks, in this order.
    pub fn rules(self) -> &'static [Rule] {
        use Rule::*;
        match self {
            Look::Row => &[NotOwner, TenantFrozen],
            Look::UnprovenRow => &[NotOwner, TenantFrozen, CrossTenant],
            Look::LimitedRow => &[RowBudget],
            Look::CascadedRow => &[Cascade, RowBudget],
            Look::Table => &[GuardTampering, Unidentified],
            Look::UnprovenTable => &[GuardTampering, Unidentified, OutsideSurface],
            Look::UnprovenGlobal => &[GuardTampering, Unidentified, GlobalWrite],
            Look::Plan => &[UnfilteredWrite],
            Look::Command => &[GuardTampering],
            Look::UnprovenCommand => &[GuardTampering, DestructiveCommand],
            Look::Setting => &[ForbiddenSetting],
        }
    }

    /// The rules that were asked and kept before one was broken.
    pub fn kept_before(self, broken: Rule) -> &'static [Rule] {
        let rules = self.rules();
        // A rule that isn't asked here stopped the look before any was.
        &rules[..rules.iter().position(|rule| *rule == broken).unwrap_or(0)]
    }
}

/// What came of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It was kept, or broken while its mode was off.
    Passed,
    /// It was broken, and that recorded.
    Observed,
    /// It was broken, and the statement refused.
    Refused,
    /// It was broken behind broken glass.
    BreakGlass,
}

impl Ending {
    /// How many there are.
    pub const COUNT: usize = 4;
}

/// How many rules there are.
pub const RULES: usize = Rule::ALL.len();

/// All that was counted for a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tally {
    /// Looks that broke no rule, by their numbers.
    pub looks: [u64; Look::COUNT],
    /// What came of rules beyond that, by the rules' numbers.
    pub endings: [[u64; Ending::COUNT]; RULES],
}

/// A line of `stats`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// How often the rule was asked.
    pub checked: u64,
    /// How often it was kept, or was off.
    pub passed: u64,
    /// How often it was broken, and that recorded.
    pub observed: u64,
    /// How often it was broken, and the statement refused.
    pub refused: u64,
    /// How often it was broken behind broken glass.
    pub break_glass: u64,
}

impl Tally {
    /// Nothing counted yet.
    pub const EMPTY: Tally = Tally { looks: [0; Look::COUNT], endings: [[0; Ending::COUNT]; RULES] };

    /// One rule's figures.
    pub fn of(&self, rule: Rule) -> Figures {
        let endings = self.endings[rule as usize];
        let looks = Look::ALL.iter().filter(|look| look.rules().contains(&rule));
        // A transaction that ends meanwhile may have added its refusals, and not yet taken their looks back; sums wrap.
        let looked = looks.fold(0_u64, |sum, look| sum.wrapping_add(self.looks[*look as usize]));
        let [passed, observed, refused, break_glass] = endings;
        let passed = looked.wrapping_add(passed);
        let checked = passed.wrapping_add(observed).wrapping_add(refused).wrapping_add(break_glass);
        Figures { checked, passed, observed, refused, break_glass }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_places_in_the_list() {
        for (n, look) in Look::ALL.into_iter().enumerate() {
            assert_eq!(look as usize, n, "{look:?}");
        }
        for (n, rule) in Rule::ALL.iter().enumerate() {
            assert_eq!(*rule as usize, n, "{rule}");
        }
    }

    #[test]
    fn every_rule_is_asked_by_some_look() {
        for rule in Rule::ALL {
            assert!(Look::ALL.iter().any(|look| look.rules().contains(rule)), "{rule}");
        }
    }

    #[test]
    fn a_look_ends_with_the_first_rule_that_is_broken() {
        let cases: [(Look, Rule, &[Rule]); 4] = [
            (Look::UnprovenRow, Rule::NotOwner, &[]),
            (Look::UnprovenRow, Rule::TenantFrozen, &[Rule::NotOwner]),
            (Look::UnprovenRow, Rule::CrossTenant, &[Rule::NotOwner, Rule::TenantFrozen]),
            (Look::Row, Rule::Cascade, &[]),
        ];
        for (look, broken, kept) in cases {
            assert_eq!(look.kept_before(broken), kept, "{look:?} {broken}");
        }
    }

    #[test]
    fn checked_is_what_passed_and_what_did_not() {
        let mut tally = Tally::EMPTY;
        tally.looks[Look::Row as usize] = 7;
        tally.looks[Look::UnprovenRow as usize] = 3;
        tally.looks[Look::Plan as usize] = 100;
        tally.endings[Rule::NotOwner as usize] = [1, 2, 4, 8];
        let expected = Figures { checked: 25, passed: 11, observed: 2, refused: 4, break_glass: 8 };
        assert_eq!(tally.of(Rule::NotOwner), expected);
        assert_eq!(tally.of(Rule::CrossTenant), Figures { checked: 3, passed: 3, ..Figures::default() });
        assert_eq!(tally.of(Rule::Cascade), Figures::default());
    }
}
