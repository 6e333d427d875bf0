#include "backend/backend.h"

#include <atomic>
#include <cstdlib>

#include "core/check.h"

namespace tqs {
namespace {

std::string known_names() {
    std::string names;
    for (const KernelTable* table : cpu_tables()) {
        if (table->supported()) names += (names.empty() ? "" : ", ") + std::string(isa_name(table->isa));
    }
    return names;
}

const KernelTable& best_table() {
    const KernelTable* best = cpu_tables().front();
    for (const KernelTable* table : cpu_tables()) {
        if (table->supported()) best = table;
    }
    return *best;
}

// `source` is how the user named it: "TQS_ISA" or "isa".
const KernelTable& find_table(const char* source, std::string_view name) {
    for (const KernelTable* table : cpu_tables()) {
        if (name != isa_name(table->isa)) continue;
        require(table->supported(), "use_isa", source, "=", name,
                " cannot run on this processor; available: ", known_names());
        return *table;
    }
    throw ArgumentError(
        message("use_isa", source, "=", name, " is not an instruction set of this build; available: ", known_names()));
}

const KernelTable& default_table() {
    const char* name = std::getenv("TQS_ISA");
    return name && *name ? find_table("TQS_ISA", name) : best_table();
}

std::atomic<const KernelTable*> chosen{nullptr};

}  // namespace

const KernelTable& active_table() {
    const KernelTable* table = chosen.load();
    if (!table) {
        table = &default_table();
        chosen.store(table);
    }
    return *table;
}

void use_isa(std::string_view name) {
    chosen.store(name.empty() ? &default_table() : &find_table("isa", name));
}

std::vector<IsaRow> list_isas() {
    std::vector<IsaRow> rows;
    for (const KernelTable* table : cpu_tables()) rows.push_back({table->isa, table->supported()});
    return rows;
}

std::vector<KernelRow> list_kernels() {
    std::vector<KernelRow> rows;
    for (const KernelTable* table : cpu_tables()) {
        for (int recurrence = 0; recurrence < kRecurrences; ++recurrence) {
            const std::string name = recurrence_name(static_cast<Recurrence>(recurrence));
            rows.push_back({"gates_" + name, "float32", isa_name(table->isa), table->supported()});
        }
        for (int format = 0; format < kFormats; ++format) {
            const auto add = [&](const std::string& op, bool present) {
                if (!present) return;
                rows.push_back(
                    {op, "int" + std::to_string(kFormatBits[format]), isa_name(table->isa), table->supported()});
            };
            add("quantize", table->quantize[format]);
            add("dequantize", table->dequantize[format]);
            add("prepack", table->prepack[format]);
            for (int dtype = 0; dtype < kDTypes; ++dtype) {
                const std::string name = std::string("qgemm_") + dtype_name(static_cast<DType>(dtype));
                add(name, table->qgemm[static_cast<int>(Activation::exact)][dtype][format]);
                add(name + "_int8", table->qgemm[static_cast<int>(Activation::int8)][dtype][format]);
            }
        }
    }
    const bool has_device = cuda::device_count() > 0;
    for (const int bits : kFormatBits) {
        if (!cuda::has_qgemm(bits)) continue;
        const std::string format = "int" + std::to_string(bits);
        for (int dtype = 0; dtype < kCudaDTypes; ++dtype) {
            const std::string name = std::string("qgemm_") + dtype_name(static_cast<DType>(dtype));
            rows.push_back({name, format, "cuda", has_device});
            rows.push_back({name + "_int8", format, "cuda", has_device});
        }
        rows.push_back({"prepack", format, "cuda", has_device});
    }
    return rows;
}

}  // namespace tqs
