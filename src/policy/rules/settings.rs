//! Settings: `forbidden_setting`.

use super::{Attempt, Refusal, Rule, literal, name};
use crate::policy::setting::Timeout;

impl Refusal {
    /// `forbidden_setting`: a timeout longer than its cap (in milliseconds), or none.
    pub fn timeout_beyond_cap(attempt: Attempt, timeout: Timeout, value: &str, cap: i32) -> Refusal {
        let message = may_not_set(&attempt, timeout.setting(), value);
        let hint = format!(
            "Set it to at most {cap}, or raise the limit: SELECT holdfast.set_limits({}, {} => '...');",
            literal(name(&attempt.backend)),
            timeout.parameter()
        );
        let reason = format!("Limit: {cap} ms; 0 would be no limit.");
        Refusal::new(Rule::ForbiddenSetting, attempt, message, &reason, hint)
    }

    /// `forbidden_setting`: a setting that unproven backends leave at its built-in value.
    pub fn setting_not_built_in(attempt: Attempt, setting: &str, value: &str, built_in: &str) -> Refusal {
        let message = may_not_set(&attempt, setting, value);
        let reason = format!("Unproven backends leave \"{setting}\" at \"{built_in}\".");
        let hint = format!(
            "Leave it at \"{built_in}\"; have a database administrator do what needs another value, through a role of a proven backend."
        );
        Refusal::new(Rule::ForbiddenSetting, attempt, message, &reason, hint)
    }
}

fn may_not_set(attempt: &Attempt, setting: &str, value: &str) -> String {
    format!("backend \"{}\" may not set parameter \"{setting}\" to \"{value}\"", name(&attempt.backend))
}
