// Attention with tangents for a vector ISA: primal and all tangents of a block of queries in one pass over the keys,
// with an online softmax (Milakov and Gimelshein, arXiv:1805.02867; the blocked form is that of FlashAttention,
// arXiv:2205.14135), so that no S x T matrix is stored. With w = exp(s - maximum) of the keys seen so far and l = sum w
//
//     s  = scale q k^T + mask                     out  = (w v) / l
//     ds = scale (dq k^T + q dk^T) + dmask        dout = ((w ds) v + w dv - (sum w ds) out) / l
//
// w is computed once and serves all lanes; when the maximum grows, all sums are multiplied by exp(old - new). Scores
// are summed over d in index order, first k dq, then dk q. A lane costs 4 S T D multiply-adds beside the primal's 2 S T
// D.
#pragma once

#include "cpu/panel/attention_columns.h"
#include "cpu/panel/attention_rows.h"

namespace tqs::panel {

template <class V>
static std::int64_t attention_scratch(const AttentionTask& task) {
    return AttentionScratch<V>(task, nullptr).elements * static_cast<std::int64_t>(sizeof(typename V::Element));
}

template <class V>
static void attention(const AttentionTask& task) {
    const AttentionScratch<V> scratch(task, task.scratch);
    for_each_head<typename V::Element>(task, [&](const Head<typename V::Element>& head) {
        // Whole vectors of queries, in blocks as even as possible; of what is left, a few one by one, else padded.
        std::int64_t vectors = head.queries / V::kLanes, rest = head.queries % V::kLanes;
        if (rest > V::kFewQueries) {
            ++vectors;
            rest = 0;
        }
        const std::int64_t blocks = (vectors + kColumns - 1) / kColumns, columned = head.queries - rest;
        for (std::int64_t block = 0; block < blocks; ++block) {
            const std::int64_t first = vectors * block / blocks, end = vectors * (block + 1) / blocks;
            attend_columns<V>(head, first * V::kLanes, std::min(end * V::kLanes, columned), scratch);
        }
        if (rest) attend_rows<V>(head, columned, head.queries, scratch);
    });
}

}  // namespace tqs::panel
