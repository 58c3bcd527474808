"""Optimizers by name; a name has typed options (torch-free) and a function that builds it."""

from __future__ import annotations

CATALOG = {
    "adamw_torch": ("trainer.optimizers.options:AdamW", "trainer.optimizers.torch:adamw"),
    "adamw_torch_fused": ("trainer.optimizers.options:AdamW", "trainer.optimizers.torch:adamw_fused"),
    "sgd": ("trainer.optimizers.options:SGD", "trainer.optimizers.torch:sgd"),
    "adagrad": ("trainer.optimizers.options:Adagrad", "trainer.optimizers.torch:adagrad"),
    "rmsprop": ("trainer.optimizers.options:RMSprop", "trainer.optimizers.torch:rmsprop"),
    "adafactor_torch": ("trainer.optimizers.options:AdafactorTorch", "trainer.optimizers.torch:adafactor"),
    "muon": ("trainer.optimizers.options:Muon", "trainer.optimizers.muon:muon"),
    "adamw_anyprecision": (
        "trainer.optimizers.options:AdamWAnyPrecision",
        "trainer.optimizers.anyprecision:adamw",
    ),
    "schedule_free_adamw": (
        "trainer.optimizers.package_options:ScheduleFreeAdamW",
        "trainer.optimizers.schedule_free:adamw",
    ),
    "schedule_free_radam": (
        "trainer.optimizers.package_options:ScheduleFreeRAdam",
        "trainer.optimizers.schedule_free:radam",
    ),
    "schedule_free_sgd": (
        "trainer.optimizers.package_options:ScheduleFreeSGD",
        "trainer.optimizers.schedule_free:sgd",
    ),
    "grokadamw": ("trainer.optimizers.package_options:GrokAdamW", "trainer.optimizers.grokadamw:grokadamw"),
    "stable_adamw": (
        "trainer.optimizers.package_options:StableAdamW",
        "trainer.optimizers.optimi:stable_adamw",
    ),
    "adamw_torch_8bit": (
        "trainer.optimizers.package_options:TorchAOAdamW8bit",
        "trainer.optimizers.torchao:adamw_8bit",
    ),
    "adamw_torch_4bit": (
        "trainer.optimizers.package_options:TorchAOAdamW4bit",
        "trainer.optimizers.torchao:adamw_4bit",
    ),
    "adamw_torch_fp8": (
        "trainer.optimizers.package_options:TorchAOAdamW8bit",
        "trainer.optimizers.torchao:adamw_fp8",
    ),
    "adamw_bnb_8bit": (
        "trainer.optimizers.package_options:BnbAdamW8bit",
        "trainer.optimizers.bitsandbytes:adamw",
    ),
    "adamw_8bit": (
        "trainer.optimizers.package_options:BnbAdamW8bit",
        "trainer.optimizers.bitsandbytes:adamw",
    ),
    "paged_adamw_32bit": (
        "trainer.optimizers.package_options:BnbAdamW",
        "trainer.optimizers.bitsandbytes:paged_adamw",
    ),
    "paged_adamw_8bit": (
        "trainer.optimizers.package_options:BnbAdamW8bit",
        "trainer.optimizers.bitsandbytes:paged_adamw",
    ),
    "lion_32bit": ("trainer.optimizers.package_options:BnbLion", "trainer.optimizers.bitsandbytes:lion"),
    "lion_8bit": ("trainer.optimizers.package_options:BnbLion8bit", "trainer.optimizers.bitsandbytes:lion"),
    "paged_lion_32bit": (
        "trainer.optimizers.package_options:BnbLion",
        "trainer.optimizers.bitsandbytes:paged_lion",
    ),
    "paged_lion_8bit": (
        "trainer.optimizers.package_options:BnbLion8bit",
        "trainer.optimizers.bitsandbytes:paged_lion",
    ),
    "ademamix": (
        "trainer.optimizers.package_options:BnbAdEMAMix",
        "trainer.optimizers.bitsandbytes:ademamix",
    ),
    "ademamix_8bit": (
        "trainer.optimizers.package_options:BnbAdEMAMix8bit",
        "trainer.optimizers.bitsandbytes:ademamix",
    ),
    "paged_ademamix_32bit": (
        "trainer.optimizers.package_options:BnbAdEMAMix",
        "trainer.optimizers.bitsandbytes:paged_ademamix",
    ),
    "paged_ademamix_8bit": (
        "trainer.optimizers.package_options:BnbAdEMAMix8bit",
        "trainer.optimizers.bitsandbytes:paged_ademamix",
    ),
    "rmsprop_bnb": (
        "trainer.optimizers.package_options:BnbRMSprop",
        "trainer.optimizers.bitsandbytes:rmsprop",
    ),
    "rmsprop_bnb_32bit": (
        "trainer.optimizers.package_options:BnbRMSprop",
        "trainer.optimizers.bitsandbytes:rmsprop",
    ),
    "rmsprop_bnb_8bit": (
        "trainer.optimizers.package_options:BnbRMSprop8bit",
        "trainer.optimizers.bitsandbytes:rmsprop",
    ),
    "adafactor": ("trainer.optimizers.adafactor_options:Adafactor", "trainer.optimizers.adafactor:adafactor"),
    "lomo": ("trainer.optimizers.lomo_options:Lomo", "trainer.optimizers.lomo:lomo"),
    "adalomo": ("trainer.optimizers.lomo_options:AdaLomo", "trainer.optimizers.lomo:adalomo"),
    "galore_adamw": ("trainer.optimizers.low_rank_options:GaLoreAdamW", "trainer.optimizers.galore:adamw"),
    "galore_adamw_layerwise": (
        "trainer.optimizers.low_rank_options:GaLoreAdamWLayerwise",
        "trainer.optimizers.galore:adamw",
    ),
    "galore_adamw_8bit": (
        "trainer.optimizers.low_rank_options:GaLoreAdamW8bit",
        "trainer.optimizers.galore_8bit:adamw",
    ),
    "galore_adamw_8bit_layerwise": (
        "trainer.optimizers.low_rank_options:GaLoreAdamW8bitLayerwise",
        "trainer.optimizers.galore_8bit:adamw",
    ),
    "galore_adafactor": (
        "trainer.optimizers.low_rank_options:GaLoreAdafactor",
        "trainer.optimizers.galore:adafactor",
    ),
    "galore_adafactor_layerwise": (
        "trainer.optimizers.low_rank_options:GaLoreAdafactorLayerwise",
        "trainer.optimizers.galore:adafactor",
    ),
    "apollo_adamw": ("trainer.optimizers.low_rank_options:ApolloAdamW", "trainer.optimizers.apollo:adamw"),
    "apollo_adamw_layerwise": (
        "trainer.optimizers.low_rank_options:ApolloAdamWLayerwise",
        "trainer.optimizers.apollo:adamw",
    ),
}
