// A matrix somebody else owns: unit stride along a row, any stride between rows, no alignment promised.
#pragma once

#include <cstdint>

namespace tqs {

template <class T>
struct MatrixView {
    T* data;  // [rows, columns]
    std::int64_t rows;
    std::int64_t columns;
    std::int64_t stride;  // elements from one row to the next

    T* row(std::int64_t index) const { return data + index * stride; }
};

}  // namespace tqs
