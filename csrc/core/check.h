// Errors of the native library: one sentence, prefixed [function], saying what was expected, what came and what to do.
// The bindings turn them into tqs_fast.errors.TqsError and ArgumentError. Nothing here prints or aborts.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>

namespace tqs {

struct Error : std::runtime_error {
    using std::runtime_error::runtime_error;
};

struct ArgumentError : Error {
    using Error::Error;
};

template <class... Parts>
[[nodiscard]] std::string message(std::string_view function, const Parts&... parts) {
    std::ostringstream text;
    text << '[' << function << "] ";
    (text << ... << parts);
    return text.str();
}

// Throws ArgumentError unless `holds`; the parts are joined only then.
template <class... Parts>
void require(bool holds, std::string_view function, const Parts&... parts) {
    if (!holds) throw ArgumentError(message(function, parts...));
}

}  // namespace tqs
